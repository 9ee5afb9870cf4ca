# The service and nothing else: no distribution, no shell, a user without rights.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags=-s -o /ostiary ./cmd/ostiary

FROM scratch
# Certificates for databases behind TLS, time zones for policies.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /usr/local/go/lib/time/zoneinfo.zip /
COPY --from=build /ostiary /ostiary
ENV ZONEINFO=/zoneinfo.zip OSTIARY_LISTEN=0.0.0.0:8080
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/ostiary"]
CMD ["serve"]
