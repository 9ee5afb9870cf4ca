// Package bundles fetches policies from a bundle server of Open Policy Agent, with
// OPA's own downloader: conditional requests, long polling, signatures, and patience
// with a server that is away.
//
// A [Server] is a [policies.Courier]: what it brings is checked, compiled and put in
// force as policies from elsewhere are, not as OPA's plugin would, which gives them
// all that OPA can do. What is in force is kept on disk, for the next start.
//
// # Whom to believe
//
// With keys, only a bundle that one of them signed is brought, from the server and
// from the disk. Without, whoever answers at the URL says what the policy is.
package bundles

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/download"
	"github.com/open-policy-agent/opa/v1/keys"
	"github.com/open-policy-agent/opa/v1/logging"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/plugins/rest"

	"github.com/ostiary/ostiary/policies"
)

// Options configures a Server.
type Options struct {
	URL   string // of the bundle
	Token string // bearer token, or none
	// Keys verify bundles, by the id that a signature names: RSA (RS256), ECDSA
	// (ES256, ES384 or ES512, as the curve is) or Ed25519 (EdDSA). A single one
	// verifies whatever id is named. None: bundles are not signed.
	Keys  map[string]crypto.PublicKey
	Scope string // that the signature has to have
	// ByRevision takes the manifest's revision for the bundle's sequence, instead
	// of its metadata.sequence.
	ByRevision bool
	// Directory is where the bundle in force is kept; empty: nowhere.
	Directory string
	// Between two looks passes a time from MinDelay (default 60s) to MaxDelay
	// (default 120s), in whole seconds. LongPoll is how long a server that can may
	// wait for a new bundle before it answers; zero: it is not asked to.
	MinDelay, MaxDelay, LongPoll time.Duration
	MaxBytes                     int64 // of a bundle, packed and unpacked; default 32 MiB
}

// maxName is how many bytes the revision that a manifest names may have.
const maxName = 200

// kept is the file in Options.Directory. OPA's tools read it.
const kept = "bundle.tar.gz"

// Server is a [policies.Courier]. Its methods are safe for concurrent use.
type Server struct {
	o        Options
	resource string // path of the bundle
	polling  download.Config
	verify   *bundle.VerificationConfig
	client   rest.Client
	requests *requests

	mu   sync.Mutex
	etag string // of the bundle that was taken last
}

var _ policies.Courier = (*Server)(nil)

// New returns a server that was not asked anything yet. It reports every mistake in
// o at once.
func New(o Options) (*Server, error) {
	s := &Server{o: o}
	var mistakes []error
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		mistakes = append(mistakes, errors.New("bundle server: the URL is not http:// or https:// without credentials and query"))
		u = &url.URL{}
	}
	s.resource = u.EscapedPath()
	if s.o.MaxBytes <= 0 {
		s.o.MaxBytes = 32 << 20
	}
	if s.verify, err = verification(o.Keys, o.Scope); err != nil {
		mistakes = append(mistakes, err)
	}
	seconds := func(d, otherwise time.Duration) *int64 {
		if d == 0 {
			d = otherwise
		}
		n := int64(d / time.Second)
		if d%time.Second != 0 || n < 1 {
			mistakes = append(mistakes, fmt.Errorf("bundle server: %s is not a number of whole seconds", d))
		}
		return &n
	}
	s.polling.Polling.MinDelaySeconds = seconds(o.MinDelay, time.Minute)
	s.polling.Polling.MaxDelaySeconds = seconds(o.MaxDelay, 2*time.Minute)
	if o.LongPoll != 0 {
		s.polling.Polling.LongPollingTimeoutSeconds = seconds(o.LongPoll, 0)
	}
	if err := s.polling.ValidateAndInjectDefaults(); err != nil {
		mistakes = append(mistakes, fmt.Errorf("bundle server: %w", err))
	}
	s.requests = newRequests(s)
	config, err := json.Marshal(map[string]any{
		"name": "bundles", "url": u.Scheme + "://" + u.Host, "credentials": map[string]any{"plugin": "requests"},
	})
	if err == nil {
		s.client, err = rest.New(config, nil, rest.Logger(logging.NewNoOpLogger()),
			rest.AuthPluginLookup(func(string) rest.HTTPAuthPlugin { return s.requests }))
	}
	if err := errors.Join(append(mistakes, err)...); err != nil {
		return nil, err
	}
	return s, nil
}

// verification is what OPA needs to verify signatures; nil without keys.
func verification(by map[string]crypto.PublicKey, scope string) (*bundle.VerificationConfig, error) {
	if len(by) == 0 {
		return nil, nil
	}
	var mistakes []error
	all := map[string]*keys.Config{}
	for _, id := range slices.Sorted(maps.Keys(by)) {
		algorithm, err := algorithmOf(by[id])
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("key %q: %w", id, err))
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(by[id])
		if err != nil {
			mistakes = append(mistakes, fmt.Errorf("key %q: %w", id, err))
			continue
		}
		all[id] = &keys.Config{Key: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), Algorithm: algorithm}
	}
	only := ""
	if len(all) == 1 {
		for only = range all {
		}
	}
	return bundle.NewVerificationConfig(all, only, scope, nil), errors.Join(mistakes...)
}

// CheckKey says why bundles cannot be verified by a key, or returns nil.
func CheckKey(key crypto.PublicKey) error {
	_, err := algorithmOf(key)
	return err
}

// algorithmOf is the one algorithm that signatures with a key may have: what a
// signature says of itself is not believed.
func algorithmOf(key crypto.PublicKey) (string, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < 2048 {
			return "", fmt.Errorf("has %d bits; it needs at least 2048", key.N.BitLen())
		}
		return "RS256", nil
	case *ecdsa.PublicKey:
		switch bits := key.Curve.Params().BitSize; bits {
		case 256:
			return "ES256", nil
		case 384:
			return "ES384", nil
		case 521:
			return "ES512", nil
		}
	case ed25519.PublicKey:
		return "EdDSA", nil
	}
	return "", errors.New("is neither RSA nor ECDSA with P-256, P-384 or P-521 nor Ed25519")
}

// Fetch implements [policies.Courier].
func (s *Server) Fetch(ctx context.Context, take policies.Take) error {
	return s.downloader(take).Trigger(ctx)
}

// Run implements [policies.Courier].
func (s *Server) Run(ctx context.Context, take policies.Take) error {
	d := s.downloader(take)
	d.Start(ctx)
	<-ctx.Done()
	d.Stop(context.WithoutCancel(ctx))
	s.requests.transport.CloseIdleConnections()
	return nil
}

func (s *Server) downloader(take policies.Take) *download.Downloader {
	return download.New(s.polling, s.client, s.resource).
		WithBundleVerificationConfig(s.verify).
		WithSizeLimitBytes(s.o.MaxBytes).
		WithBundlePersistence(true). // or the bytes are not there to be kept
		WithLazyLoadingMode(true).   // or the texts of data files are not
		WithCallback(func(ctx context.Context, u download.Update) error {
			switch {
			case u.Error != nil:
				return take(ctx, nil, fmt.Errorf("bundle server: %w", u.Error))
			case u.Bundle == nil:
				return take(ctx, nil, nil)
			}
			d, err := s.delivery(u.Bundle)
			if err != nil {
				return take(ctx, nil, fmt.Errorf("bundle server: %w", err))
			}
			var raw bytes.Buffer
			if _, err := raw.ReadFrom(u.Raw); err != nil {
				return take(ctx, nil, fmt.Errorf("bundle server: %w", err))
			}
			d.Keep = func() error { return s.keep(raw.Bytes()) }
			if err := take(ctx, d, nil); err != nil {
				return err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.etag = u.ETag
			return nil
		})
}

// taken is the ETag of the bundle that was taken last.
func (s *Server) taken() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.etag
}

// delivery takes a bundle that was read and verified apart.
func (s *Server) delivery(b *bundle.Bundle) (*policies.Delivery, error) {
	switch {
	case b.Type() != bundle.SnapshotBundleType:
		return nil, errors.New("is a delta; only whole bundles are taken")
	case len(b.WasmModules)+len(b.PlanModules) > 0:
		return nil, errors.New("has compiled modules; only Rego is taken")
	case len(b.Manifest.Revision) > maxName:
		return nil, fmt.Errorf("its revision has %d bytes; %d are the most", len(b.Manifest.Revision), maxName)
	}
	d := &policies.Delivery{Name: b.Manifest.Revision, Files: make(map[string]string, len(b.Raw))}
	for _, f := range b.Raw {
		name := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
		if _, twice := d.Files[name]; twice {
			return nil, fmt.Errorf("has %s twice", name)
		}
		d.Files[name] = string(f.Value)
	}
	var err error
	d.Sequence, err = s.sequence(b.Manifest)
	return d, err
}

// sequence reads the number that rises from bundle to bundle; 0 if there is none.
func (s *Server) sequence(m bundle.Manifest) (int64, error) {
	var said any
	where := "metadata.sequence"
	if s.o.ByRevision {
		where, said = "revision", m.Revision
	} else if said = m.Metadata["sequence"]; said == nil {
		return 0, nil
	}
	var n int64
	err := strconv.ErrSyntax
	switch v := said.(type) {
	case json.Number:
		n, err = strconv.ParseInt(v.String(), 10, 64)
	case string:
		n, err = strconv.ParseInt(v, 10, 64)
	case float64: // of a manifest in protobuf
		if n = int64(v); float64(n) == v {
			err = nil
		}
	}
	if err != nil || n < 1 || n > 1<<53 {
		return 0, fmt.Errorf("its %s is not a whole number from 1 to 2^53", where)
	}
	return n, nil
}

// Kept implements [policies.Courier].
func (s *Server) Kept(context.Context) (*policies.Delivery, error) {
	if s.o.Directory == "" {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(s.o.Directory, kept))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	packed, err := bounded(f, s.o.MaxBytes)
	if err != nil {
		return nil, err
	}
	b, err := bundle.NewCustomReader(bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(packed), "").WithSizeLimitBytes(s.o.MaxBytes)).
		WithBundleVerificationConfig(s.verify).
		WithSizeLimitBytes(s.o.MaxBytes).
		WithBundlePersistence(true).
		WithLazyLoadingMode(true).
		WithMetrics(metrics.NoOp()).
		Read()
	if err != nil {
		return nil, err
	}
	return s.delivery(&b)
}

// keep replaces what is kept, whole or not at all, whenever the machine stops.
func (s *Server) keep(packed []byte) (err error) {
	if s.o.Directory == "" {
		return nil
	}
	if err := os.MkdirAll(s.o.Directory, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.o.Directory, "."+kept+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(packed)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(s.o.Directory, kept)); err != nil {
		return err
	}
	dir, err := os.Open(s.o.Directory)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
