package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ostiary/ostiary/bundles"
)

// signingKeys reads the private keys in a PEM file: PKCS #8, as openssl genpkey
// writes them, or SEC 1. No path, no keys. A file that others could read is
// refused, as one with the secret is.
func signingKeys(path string) ([]crypto.Signer, error) {
	if path == "" {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode is %#o, so others can read the keys; it must be 0600", path, mode)
	}
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var keys []crypto.Signer
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		key, err := privateKey(block)
		if err != nil {
			return nil, fmt.Errorf("%s: key %d: %w", path, len(keys)+1, err)
		}
		if key != nil {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: holds no private key in PEM", path)
	}
	return keys, nil
}

func privateKey(block *pem.Block) (crypto.Signer, error) {
	switch block.Type {
	case "EC PARAMETERS": // openssl ecparam puts them before the key
		return nil, nil
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("is not a private key in PKCS #8")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("does not sign")
	}
	return signer, nil
}

// publicKeys reads PEM files with one public key each, by the name of the file
// without its extension.
func publicKeys(paths []string) (map[string]crypto.PublicKey, error) {
	keys := map[string]crypto.PublicKey{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, fmt.Errorf("%s: is not one public key in PEM, as openssl pkey -pubout writes it", path)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: is not a public key", path)
		}
		if err := bundles.CheckKey(key); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		id := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
		if _, twice := keys[id]; twice {
			return nil, fmt.Errorf("%s: another key has the id %s", path, id)
		}
		keys[id] = key
	}
	return keys, nil
}
