package authzen

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jwt"
)

// Paths of what describes the service. They stand between an identifier's host
// and its path, and are the same for everybody.
const (
	Metadata = "/.well-known/authzen-configuration" // followed by the identifier's path
	KeySet   = "/.well-known/jwks.json"
)

// MetadataAge is how long callers may keep what describes the service.
const MetadataAge = time.Hour

// signatureLife is how long a signed document is good. It has to outlive what
// callers keep.
const signatureLife = 24 * time.Hour

// Document is the discovery document. A member that is not there is not offered.
type Document struct {
	Identifier     string `json:"policy_decision_point"`
	Evaluation     string `json:"access_evaluation_endpoint"`
	Evaluations    string `json:"access_evaluations_endpoint"`
	SearchSubject  string `json:"search_subject_endpoint"`
	SearchResource string `json:"search_resource_endpoint"`
	SearchAction   string `json:"search_action_endpoint"`
	// KeySet is an addition of ours: where the keys are that verify Signed.
	KeySet string `json:"jwks_uri,omitempty"`
	Signed string `json:"signed_metadata,omitempty"`
}

// discovery is what the service says about itself: from its configuration alone,
// never from what a request says of hosts.
type discovery struct {
	identifiers []identifier
	keys        []signingKey
	published   []byte // the key set
}

type identifier struct {
	text, host, path string
	document         Document
}

type signingKey struct {
	algorithm jwa.SignatureAlgorithm
	key       jwk.Key
}

// Paths that routers and proxies have one opinion of.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$`)

func newDiscovery(identifiers []string, keys []crypto.Signer) (*discovery, error) {
	d := &discovery{}
	var errs []error
	taken := map[string]bool{}
	for _, text := range identifiers {
		id, err := newIdentifier(text)
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case taken[id.host+id.path]:
			errs = append(errs, fmt.Errorf("identifier %q: is there twice", text))
		}
		taken[id.host+id.path] = true
		if len(keys) > 0 {
			id.document.KeySet = "https://" + id.host + KeySet
		}
		d.identifiers = append(d.identifiers, id)
	}
	set := jwk.NewSet()
	for i, key := range keys {
		signing, public, err := newSigningKey(key)
		if err == nil {
			err = set.AddKey(public)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("signing key %d: %w", i+1, err))
			continue
		}
		d.keys = append(d.keys, signing)
	}
	if len(d.keys) > 0 {
		var err error
		d.published, err = json.Marshal(set)
		errs = append(errs, err)
	}
	return d, errors.Join(errs...)
}

// CheckIdentifier reports what keeps text from being an identifier.
func CheckIdentifier(text string) error {
	_, err := newIdentifier(text)
	return err
}

func newIdentifier(text string) (identifier, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Opaque != "" || strings.ContainsAny(text, "?#") {
		return identifier{}, fmt.Errorf("identifier %q: must be an https URL without query and fragment", text)
	}
	base := strings.TrimSuffix(text, "/")
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	if !plainPath.MatchString(path) {
		return identifier{}, fmt.Errorf("identifier %q: the path must be of plain segments", text)
	}
	return identifier{text: text, host: canonicalHost(u.Host), path: path, document: Document{
		Identifier:     text,
		Evaluation:     base + evaluationPath,
		Evaluations:    base + evaluationsPath,
		SearchSubject:  base + subjectPath,
		SearchResource: base + resourcePath,
		SearchAction:   base + actionPath,
	}}, nil
}

// canonicalHost is a host as hosts are compared: in lower case, without the port
// that https has anyway.
func canonicalHost(host string) string {
	host = strings.ToLower(host)
	if name, port, err := net.SplitHostPort(host); err == nil && port == "443" {
		if strings.Contains(name, ":") {
			return "[" + name + "]"
		}
		return name
	}
	return host
}

// prefixes are the paths below which endpoints are, the empty one first.
func (d *discovery) prefixes() []string {
	all := []string{""}
	for _, id := range d.identifiers {
		if !slices.Contains(all, id.path) {
			all = append(all, id.path)
		}
	}
	return all
}

// Documents lists the paths at which there are discovery documents.
func (s *Surface) Documents() []string {
	var all []string
	for _, id := range s.discovery.identifiers {
		if !slices.Contains(all, Metadata+id.path) {
			all = append(all, Metadata+id.path)
		}
	}
	return all
}

// Document returns the discovery document at path for a request to host, and
// whether there is one.
func (s *Surface) Document(host, path string) (Document, bool, error) {
	host = canonicalHost(host)
	var chosen *identifier
	for i, id := range s.discovery.identifiers {
		if Metadata+id.path == path && (chosen == nil || id.host == host && chosen.host != host) {
			chosen = &s.discovery.identifiers[i]
		}
	}
	if chosen == nil {
		return Document{}, false, nil
	}
	document := chosen.document
	if len(s.discovery.keys) > 0 {
		var err error
		if document.Signed, err = s.discovery.sign(document, s.clock()); err != nil {
			return Document{}, false, err
		}
	}
	return document, true, nil
}

// KeySet returns the public keys that verify signed documents, as a JSON Web Key
// Set (RFC 7517), and whether there are any.
func (s *Surface) KeySet() ([]byte, bool) {
	return s.discovery.published, s.discovery.published != nil
}

func newSigningKey(key crypto.Signer) (signing signingKey, public jwk.Key, err error) {
	switch k := key.(type) {
	case ed25519.PrivateKey:
		signing.algorithm = jwa.EdDSA()
	case *ecdsa.PrivateKey:
		switch k.Curve.Params().Name {
		case "P-256":
			signing.algorithm = jwa.ES256()
		case "P-384":
			signing.algorithm = jwa.ES384()
		case "P-521":
			signing.algorithm = jwa.ES512()
		}
	}
	if signing.algorithm.String() == "" {
		return signing, nil, errors.New("must be an ECDSA key (P-256, P-384, P-521) or an Ed25519 key")
	}
	if signing.key, err = jwk.Import(key); err != nil {
		return signing, nil, err
	}
	if err = jwk.AssignKeyID(signing.key); err != nil { // RFC 7638
		return signing, nil, err
	}
	if public, err = jwk.PublicKeyOf(signing.key); err != nil {
		return signing, nil, err
	}
	return signing, public, errors.Join(public.Set(jwk.AlgorithmKey, signing.algorithm), public.Set(jwk.KeyUsageKey, jwk.ForSignature))
}

// sign returns document as a JWT: its members as claims.
func (d *discovery) sign(document Document, now time.Time) (string, error) {
	text, err := json.Marshal(document)
	if err != nil {
		return "", err
	}
	var claims map[string]any
	if err := json.Unmarshal(text, &claims); err != nil {
		return "", err
	}
	b := jwt.NewBuilder().Issuer(document.Identifier).IssuedAt(now).Expiration(now.Add(signatureLife))
	for name, value := range claims {
		b = b.Claim(name, value)
	}
	token, err := b.Build()
	if err != nil {
		return "", fmt.Errorf("sign the discovery document: %w", err)
	}
	signed, err := jwt.Sign(token, jwt.WithKey(d.keys[0].algorithm, d.keys[0].key))
	if err != nil {
		return "", fmt.Errorf("sign the discovery document: %w", err)
	}
	return string(signed), nil
}
