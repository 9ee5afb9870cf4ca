// Package request reads what an HTTP request says: the one credential that
// counts, the client's address, a body within its limits.
package request

// Options configures the reading. The zero value works.
type Options struct {
	KeyHeaders     []string // default ["x-api-key"]
	CookiePrefix   string   // default "better-auth"
	SecureCookies  bool     // cookie names carry "__Secure-"
	Secrets        []string // of signed cookies; the first signs
	AddressHeaders []string // default ["x-forwarded-for"]
	TrustedProxies []string // addresses or CIDRs
	MaxBody        int64    // bytes; default 1 MiB
	MaxDepth       int      // of JSON; default 32
}
