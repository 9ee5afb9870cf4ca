# The service in an image without shell, as a user without rights.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags=-s -o /ostiary ./cmd/ostiary

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /ostiary /ostiary
ENV OSTIARY_LISTEN=0.0.0.0:8080
EXPOSE 8080
ENTRYPOINT ["/ostiary"]
CMD ["serve"]
