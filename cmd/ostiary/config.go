package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/policies"
	"github.com/ostiary/ostiary/server/authzen"
	"github.com/ostiary/ostiary/server/forwardauth"
)

// config is everything that can be set. A member's key is its name in the
// file; the flag and the environment variable derive from it: session.life is
// --session-life and OSTIARY_SESSION_LIFE. The configuration ends in this
// package: options turns it into what the rooms take.
type config struct {
	Listen        string `key:"listen" help:"address to listen on"`
	MetricsListen string `key:"metrics_listen" help:"address of /metrics; empty for none"`
	Database      string `key:"database" help:"sqlite:PATH, sqlite::memory: or postgres://…"`
	Secret        string `key:"secret" env:"BETTER_AUTH_SECRETS,BETTER_AUTH_SECRET" help:"signs cookies, at least 32 characters; with SQLite and none given, one is kept in PATH.secret"`
	// A list of its own, because a secret may contain commas.
	OldSecrets []string `key:"old_secrets" help:"secrets that cookies may still be signed with"`
	BaseURL    string   `key:"base_url" env:"BETTER_AUTH_URL" help:"URL that browsers know the service by; empty for http:// and the listen address"`
	Policies   string   `key:"policies" help:"folder of the bundle that is added to the built-in one, reloaded when its files change"`
	Evaluator  string   `key:"evaluator" help:"auto: policies are compiled, as far as that can be done; topdown: OPA's evaluator decides"`
	// A group of its own, because policies is a folder.
	Policy struct {
		Source       string   `key:"source" help:"files: policies are the folder; database: they are what was published last with ostiary policy publish or the API; bundle: they come from a bundle server of OPA"`
		MinCoverage  int      `key:"min_coverage" help:"per cent of its lines that the tests of a bundle have to reach to be published"`
		Shadow       string   `key:"shadow" help:"folder of a candidate that is asked beside the policy in force, and changes no answer; with source: database see ostiary policy shadow"`
		ShadowSample fraction `key:"shadow_sample" help:"part of the decisions that a shadow is asked about, above 0 to 1"`
		Replay       struct {
			Since   time.Duration `key:"since" help:"decisions of this time are replayed before a bundle is published; 0s is none"`
			FailOn  string        `key:"fail_on" help:"which flips keep it from being published: deny-to-allow, any or none"`
			Records int           `key:"records" help:"the most that are replayed, the newest first"`
		} `key:"replay"`
		Bundle struct {
			URL       string        `key:"url" help:"of the bundle on the server"`
			Token     string        `key:"token" help:"bearer token for the server"`
			Keys      []string      `key:"keys" help:"PEM files of public keys, RSA, ECDSA or Ed25519: a bundle has to be signed with the one whose file, without .pem, has the key id that the signature names; with a single one, with that one"`
			Scope     string        `key:"scope" help:"scope that the signature has to have"`
			Sequence  string        `key:"sequence" help:"number that rises from bundle to bundle, so that an older one is not taken: metadata, which is metadata.sequence in the manifest, if it is there; or revision, which is the manifest's revision"`
			Directory string        `key:"directory" help:"folder in which the bundle in force is kept for a start without the server; empty for none"`
			MinDelay  time.Duration `key:"min_delay" help:"shortest time between two looks at the server"`
			MaxDelay  time.Duration `key:"max_delay" help:"longest time between two looks at the server"`
			LongPoll  time.Duration `key:"long_poll" help:"how long a server that can may wait for a new bundle before it answers; 0s does not ask it to"`
			MaxSize   size          `key:"max_size" help:"largest bundle, packed and unpacked"`
		} `key:"bundle"`
	} `key:"policy"`

	Pool struct {
		Connections      int           `key:"connections" help:"database connections at most; 0 is as the cores suggest; with Postgres one more listens for changes"`
		Idle             time.Duration `key:"idle" help:"a connection that is unused this long is closed"`
		Life             time.Duration `key:"life" help:"a connection that is this old is closed after use; 0s is never"`
		StatementTimeout time.Duration `key:"statement_timeout" help:"Postgres ends a statement that takes longer; 0s leaves it to the server"`
	} `key:"pool"`

	BasePath       string   `key:"base_path" help:"path of the Better Auth API"`
	RateLimit      bool     `key:"rate_limit" help:"bound requests to the Better Auth API per client address and path, as it does in production"`
	TrustedOrigins []string `key:"trusted_origins" env:"BETTER_AUTH_TRUSTED_ORIGINS" help:"origins, beside the base URL's, whose pages may use cookies here; * and ? match"`
	TrustedProxies []string `key:"trusted_proxies" help:"addresses or networks of proxies whose word on the client's address counts"`
	AddressHeaders []string `key:"address_headers" help:"headers that carry the client's address"`
	KeyHeaders     []string `key:"key_headers" help:"headers that carry an API key; the first that is there counts"`

	// Where proxies ask, and who counts as one.
	ForwardAuth struct {
		Proxies    []string `key:"proxies" help:"addresses or networks of the reverse proxies that may ask at /forward-auth"`
		Secret     string   `key:"secret" help:"what such a proxy has to send as Ostiary-Forward-Secret, at least 32 characters; with proxies too, both are needed"`
		OldSecrets []string `key:"old_secrets" help:"secrets that proxies may still send"`
	} `key:"forward_auth"`
	ExtAuthzListen string `key:"ext_authz_listen" help:"address that answers Envoy's external authorization in gRPC; empty for none"`

	Cookies struct {
		Prefix string `key:"prefix" help:"first part of cookie names"`
		Secure string `key:"secure" help:"true, false, or auto: as the base URL is https"`
		Domain string `key:"domain" help:"domain whose hosts share the cookies; empty for the host alone"`
		// Written for applications that read it; never believed here.
		Cache     bool          `key:"cache" help:"write the session_data cookie for applications that read it"`
		CacheLife time.Duration `key:"cache_life" help:"life of that cookie"`
	} `key:"cookies"`

	Session struct {
		Life              time.Duration `key:"life" help:"how long a session lives unused"`
		UpdateAge         time.Duration `key:"update_age" help:"a session used this long after its last extension is extended"`
		NeverSlides       bool          `key:"never_slides" help:"end sessions at their first end, however much they are used"`
		FreshAge          time.Duration `key:"fresh_age" help:"how long a sign-in counts as recent; 0s is for ever"`
		ShortLife         time.Duration `key:"short_life" help:"life of a session that is not to be remembered"`
		ImpersonationLife time.Duration `key:"impersonation_life" help:"life of an impersonated session"`
	} `key:"session"`

	SignUp               bool     `key:"sign_up" help:"let people create accounts"`
	AutoSignIn           bool     `key:"auto_sign_in" help:"sign in after sign-up"`
	RequireVerifiedEmail bool     `key:"require_verified_email" help:"refuse sign-in until the email is verified"`
	DefaultRole          string   `key:"default_role" help:"role of users who have none"`
	AdminRoles           []string `key:"admin_roles" help:"roles that make an administrator"`
	AdminUserIDs         []string `key:"admin_user_ids" help:"users who are administrators whatever their role"`
	ChangeEmail          bool     `key:"change_email" help:"let people change an email that is not verified"`
	DeleteUser           bool     `key:"delete_user" help:"let people delete their own account"`

	Ban struct {
		Reason  string        `key:"reason" help:"reason of a ban that gives none"`
		Life    time.Duration `key:"life" help:"length of a ban that gives none; 0s is for ever"`
		Message string        `key:"message" help:"what banned people are told at sign-in"`
	} `key:"ban"`

	Password struct {
		Min        int           `key:"min" help:"shortest password"`
		Max        int           `key:"max" help:"longest password"`
		HashMemory size          `key:"hash_memory" help:"memory for hashing passwords at once; one takes 32MiB"`
		HashWait   time.Duration `key:"hash_wait" help:"how long a sign-in waits for its turn"`
	} `key:"password"`
	Username struct {
		Min int `key:"min" help:"shortest username"`
		Max int `key:"max" help:"longest username"`
	} `key:"username"`

	Keys struct {
		Prefix             string        `key:"prefix" help:"first characters of API keys"`
		NameRequired       bool          `key:"name_required" help:"refuse keys without a name"`
		NameMin            int           `key:"name_min" help:"shortest name"`
		NameMax            int           `key:"name_max" help:"longest name"`
		PrefixMin          int           `key:"prefix_min" help:"shortest prefix that can be asked for"`
		PrefixMax          int           `key:"prefix_max" help:"longest prefix that can be asked for"`
		Length             int           `key:"length" help:"shortest key that is looked at; a key with another prefix than ours has so many random characters"`
		StartLength        int           `key:"start_length" help:"characters of a key that lists show"`
		DefaultLife        time.Duration `key:"default_life" help:"life of a key that asks for none; 0s is for ever"`
		MinLife            time.Duration `key:"min_life" help:"shortest life that can be asked for"`
		MaxLife            time.Duration `key:"max_life" help:"longest life that can be asked for"`
		ExpiryFixed        bool          `key:"expiry_fixed" help:"refuse keys that ask for a life"`
		Metadata           bool          `key:"metadata" help:"let keys carry metadata"`
		DefaultPermissions []string      `key:"default_permissions" help:"grants of a key that asks for none, as type:action"`
		RateLimitMax       int64         `key:"rate_limit_max" help:"uses per window of a key without a limit of its own; 0 is no limit"`
		RateLimitWindow    time.Duration `key:"rate_limit_window" help:"that window"`
		Retention          time.Duration `key:"retention" help:"how long ended keys are kept"`
	} `key:"keys"`

	Throttle struct {
		PerAccount int           `key:"per_account" help:"failed sign-ins to an account in the window; 0 is no limit"`
		PerAddress int           `key:"per_address" help:"failed sign-ins from an address in the window; 0 is no limit"`
		Window     time.Duration `key:"window" help:"that window"`
	} `key:"throttle"`

	Directory struct {
		Protected []string `key:"protected" help:"properties of subjects that only the store may tell; what a caller asserts of them is ignored"`
	} `key:"directory"`

	Search struct {
		Candidates int           `key:"candidates" help:"the most that one page of a search decides about; a page that ends there is continued"`
		Time       time.Duration `key:"time" help:"the longest that one page of a search takes up candidates"`
		Recheck    int           `key:"recheck" help:"of the results that the database found by a filter, decide about one in so many all the same; 0 is none"`
	} `key:"search"`

	Decisions struct {
		Deadline  time.Duration `key:"deadline" help:"time for one decision; after it the answer is no"`
		Recheck   int           `key:"recheck" help:"of the decisions of a compiled policy, have OPA's evaluator make one in so many as well; 0 is none"`
		Memo      int           `key:"memo" help:"answers of the policy that are remembered, as long as all that it read is the same; 0 remembers none"`
		Strict    bool          `key:"strict" help:"deny when a decision cannot be recorded"`
		Buffer    int           `key:"buffer" help:"decisions waiting to be written before some are lost"`
		Retention time.Duration `key:"retention" help:"how long decision records are kept; 0s is for ever"`
		Sample    fraction      `key:"sample" help:"part of the allowed decisions that is recorded, from 0 to 1; denials always are"`
		Sinks     []string      `key:"sinks" help:"where records go: database, stdout, file:PATH, opa:URL of a service that takes OPA's decision logs"`
		OPAToken  string        `key:"opa_token" help:"bearer token for that service"`
	} `key:"decisions"`

	OPA struct {
		Query       bool     `key:"query" help:"answer ad hoc queries (/v1/query) for callers with access:evaluate and policy:test"`
		Entrypoints []string `key:"entrypoints" help:"documents that OPA clients may ask for, as app/document/allow, beside the rules that are annotated entrypoint: true"`
	} `key:"opa"`

	Cache struct {
		Size  int           `key:"size" help:"callers remembered, and as many users and entities that were asked about; 0 remembers none"`
		Life  time.Duration `key:"life" help:"the longest one is remembered unasked"`
		Lease time.Duration `key:"lease" help:"the longest a change elsewhere can stay unnoticed"`
	} `key:"cache"`

	Limits struct {
		Body  size `key:"body" help:"largest request body"`
		Depth int  `key:"depth" help:"deepest JSON in a request"`
	} `key:"limits"`

	AuthZEN struct {
		Identifiers    []string `key:"identifiers" help:"https URLs that AuthZEN callers know the service by, each with a discovery document; empty for the base URL, if it is https"`
		SigningKey     string   `key:"signing_key" help:"PEM file of private keys, ECDSA or Ed25519: the first signs the discovery documents, all are published"`
		MaxEvaluations int      `key:"max_evaluations" help:"most evaluations in one request"`
	} `key:"authzen"`

	Log struct {
		Level  string `key:"level" help:"debug, info, warn or error"`
		Format string `key:"format" help:"text or json"`
	} `key:"log"`
	ShutdownGrace time.Duration `key:"shutdown_grace" help:"how long requests in flight may take after SIGTERM"`
}

func defaults() config {
	var c config
	c.Listen = "127.0.0.1:8080"
	c.Database = "sqlite:ostiary.db"
	c.Policy.Source = "files"
	c.Policy.ShadowSample = 1
	c.Policy.Replay.FailOn = policies.DenyToAllow
	c.Policy.Replay.Records = policies.DefaultGateRecords
	c.Policy.Bundle.Sequence = "metadata"
	c.Policy.Bundle.MinDelay, c.Policy.Bundle.MaxDelay = time.Minute, 2*time.Minute
	c.Policy.Bundle.MaxSize = 32 << 20
	c.Pool.Idle = 5 * time.Minute
	c.Pool.StatementTimeout = 10 * time.Second
	c.AddressHeaders = []string{"x-forwarded-for"}
	c.KeyHeaders = []string{"x-api-key"}
	c.Cookies.Prefix = "better-auth"
	c.Cookies.Secure = "auto"
	c.Cookies.CacheLife = 5 * time.Minute
	c.BasePath = "/api/auth"
	c.Session.Life = 7 * day
	c.Session.UpdateAge = day
	c.Session.FreshAge = day
	c.Session.ShortLife = day
	c.Session.ImpersonationLife = time.Hour
	c.SignUp = true
	c.AutoSignIn = true
	c.DefaultRole = "user"
	c.AdminRoles = []string{"admin"}
	c.Ban.Reason = "No reason"
	c.Ban.Message = "You have been banned from this application. Please contact support if you believe this is an error."
	c.Password.Min, c.Password.Max = 8, 128
	c.Password.HashMemory = 256 << 20
	c.Password.HashWait = 5 * time.Second
	c.Username.Min, c.Username.Max = 3, 30
	c.Keys.Prefix = "ost_"
	c.Keys.NameMin, c.Keys.NameMax = 1, 32
	c.Keys.PrefixMin, c.Keys.PrefixMax = 1, 32
	c.Keys.Length = 64
	c.Keys.StartLength = 6
	c.Keys.MinLife, c.Keys.MaxLife = day, 365*day
	c.Keys.Metadata = true
	c.Keys.RateLimitWindow = day
	c.Keys.Retention = 90 * day
	c.Throttle.PerAccount, c.Throttle.PerAddress = 10, 100
	c.Throttle.Window = 15 * time.Minute
	c.Evaluator = "auto"
	c.Decisions.Deadline = time.Second
	c.Decisions.Recheck = 1000
	c.Decisions.Memo = 50_000
	c.Decisions.Buffer = 20_000
	c.Decisions.Retention = 90 * day
	c.Decisions.Sample = 1
	c.Decisions.Sinks = []string{"database"}
	c.Cache.Size = 100_000
	c.Cache.Life = time.Minute
	c.Cache.Lease = 2 * time.Second
	c.Limits.Body = 1 << 20
	c.Limits.Depth = 32
	c.AuthZEN.MaxEvaluations = 1000
	c.Search.Candidates = 10_000
	c.Search.Time = 5 * time.Second
	c.Search.Recheck = 1000
	c.Log.Level, c.Log.Format = "info", "text"
	c.ShutdownGrace = 30 * time.Second
	return c
}

// setting is a member of config under its names.
type setting struct {
	key, help string
	env       []string // the first that is set counts
	value     reflect.Value
}

func (s setting) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(s.key) }

// settings lists the members of c in order.
func settings(c *config) []setting { return walk(reflect.ValueOf(c).Elem(), "") }

func walk(v reflect.Value, prefix string) []setting {
	var all []setting
	for i := range v.NumField() {
		f := v.Type().Field(i)
		key := prefix + f.Tag.Get("key")
		if f.Type.Kind() == reflect.Struct {
			all = append(all, walk(v.Field(i), key+".")...)
			continue
		}
		s := setting{key: key, help: f.Tag.Get("help"), value: v.Field(i)}
		s.env = append(s.env, "OSTIARY_"+strings.ToUpper(strings.ReplaceAll(key, ".", "_")))
		if also := f.Tag.Get("env"); also != "" {
			s.env = append(s.env, strings.Split(also, ",")...)
		}
		all = append(all, s)
	}
	return all
}

// text is a flag's value as typed; it is decoded with the file's and the
// environment's.
type text struct{ value, kind string }

func (t *text) String() string     { return t.value }
func (t *text) Set(s string) error { t.value = s; return nil }
func (t *text) Type() string       { return t.kind }

// addFlags gives flags one for each setting; only those in shown appear in
// the help, or all if shown is nil.
func addFlags(flags *pflag.FlagSet, shown []string) {
	flags.String("config", "", "configuration file (default ostiary.yaml, if there is one)")
	c := defaults()
	for _, s := range settings(&c) {
		f := flags.VarPF(&text{format(s.value.Interface()), kind(s.value)}, s.flag(), "", s.help)
		if s.value.Kind() == reflect.Bool {
			f.NoOptDefVal = "true"
		}
		f.Hidden = shown != nil && !slices.Contains(shown, s.key)
	}
}

// load reads the configuration: flags win over the environment, the
// environment over the file, the file over the defaults. It reports every
// mistake, each with the place it was made in; what could be read is returned
// even then, so that a caller can look for more mistakes.
func load(flags *pflag.FlagSet) (config, error) {
	c := defaults()
	all := settings(&c)

	v := viper.New()
	file, err := readFile(v, flags.Lookup("config"), all)
	mistakes := []error{err}
	for _, s := range all {
		v.SetDefault(s.key, format(s.value.Interface()))
		// Neither fails: the key is not empty, the flag is not nil.
		_ = v.BindEnv(append([]string{s.key}, s.env...)...)
		_ = v.BindPFlag(s.key, flags.Lookup(s.flag()))
	}
	for _, s := range all {
		if !v.IsSet(s.key) {
			continue // null in the file
		}
		hooks := viper.DecodeHook(mapstructure.DecodeHookFuncType(decode))
		if err := v.UnmarshalKey(s.key, s.value.Addr().Interface(), hooks); err != nil {
			mistakes = append(mistakes, fmt.Errorf("%s: %s", origin(s, flags, file), plain(err)))
		}
	}
	where := func(key string) string {
		i := slices.IndexFunc(all, func(s setting) bool { return s.key == key })
		return origin(all[i], flags, file)
	}
	if name := where("secret"); name == "BETTER_AUTH_SECRETS" {
		if c.Secret, err = firstSecret(c.Secret); err != nil {
			mistakes = append(mistakes, fmt.Errorf("%s: %w", name, err))
		}
	}
	mistakes = append(mistakes, c.check(where)...)
	return c, errors.Join(mistakes...)
}

// firstSecret is the one that signs of "2:secret,1:older": Better Auth's way
// to write several, each with its version.
func firstSecret(list string) (string, error) {
	first, _, _ := strings.Cut(list, ",")
	version, secret, ok := strings.Cut(first, ":")
	if _, err := strconv.ParseUint(strings.TrimSpace(version), 10, 32); err != nil || !ok || strings.TrimSpace(secret) == "" {
		return "", errors.New("must begin with version:secret")
	}
	return strings.TrimSpace(secret), nil
}

// plain is what went wrong without mapstructure's frame around it.
func plain(err error) string {
	for {
		inner := errors.Unwrap(err)
		if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
			inner = joined.Unwrap()[0]
		}
		if inner == nil {
			break
		}
		err = inner
	}
	msg := err.Error()
	if _, after, ok := strings.Cut(msg, "error decoding '': "); ok {
		msg = after
	}
	return strings.TrimSpace(strings.TrimPrefix(msg, "'' "))
}

// places maps the keys of a configuration file to "file:line".
type places map[string]string

// readFile gives v the configuration file, and refuses keys that mean nothing.
func readFile(v *viper.Viper, flag *pflag.Flag, all []setting) (places, error) {
	name := flag.Value.String()
	if name == "" {
		name = os.Getenv("OSTIARY_CONFIG")
	}
	chosen := name != ""
	name = cmp.Or(name, "ostiary.yaml")
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !chosen {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}

	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 {
		return nil, nil // an empty file
	}
	found := places{}
	var mistakes []error
	var visit func(n *yaml.Node, prefix string)
	visit = func(n *yaml.Node, prefix string) {
		at := fmt.Sprintf("%s:%d", name, n.Line)
		if n.Kind != yaml.MappingNode {
			if n.Tag != "!!null" {
				mistakes = append(mistakes, fmt.Errorf("%s: %q is a section, not a value", at, strings.TrimSuffix(prefix, ".")))
			}
			return
		}
		for i := 0; i < len(n.Content); i += 2 {
			k, val := n.Content[i], n.Content[i+1]
			key, at := prefix+k.Value, fmt.Sprintf("%s:%d", name, k.Line)
			section := slices.ContainsFunc(all, func(s setting) bool { return strings.HasPrefix(s.key, key+".") })
			value := slices.ContainsFunc(all, func(s setting) bool { return s.key == key })
			switch _, twice := found[key]; {
			case twice:
				mistakes = append(mistakes, fmt.Errorf("%s: %q is there twice", at, key))
			case section:
				found[key] = at
				visit(val, key+".")
			case value:
				found[key] = at
			default:
				mistakes = append(mistakes, fmt.Errorf("%s: unknown key %q", at, key))
			}
		}
	}
	visit(doc.Content[0], "")
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil && len(mistakes) == 0 {
		mistakes = append(mistakes, fmt.Errorf("%s: %w", name, err))
	}
	return found, errors.Join(mistakes...)
}

// origin says where the value of s was given.
func origin(s setting, flags *pflag.FlagSet, file places) string {
	if flags.Changed(s.flag()) {
		return "--" + s.flag()
	}
	for _, name := range s.env {
		if os.Getenv(name) != "" {
			return name
		}
	}
	if at, ok := file[s.key]; ok {
		return at + ": " + s.key
	}
	return s.key
}

// check reports what is wrong with values that are well-formed, each with the
// place where it was given.
func (c *config) check(where func(key string) string) []error {
	var mistakes []error
	refuse := func(key, format string, args ...any) {
		mistakes = append(mistakes, fmt.Errorf("%s: %s", where(key), fmt.Sprintf(format, args...)))
	}
	oneOf := func(key, value string, values ...string) {
		if !slices.Contains(values, value) {
			refuse(key, "%q is none of %s", value, strings.Join(values, ", "))
		}
	}

	address := func(key, value string) {
		if _, port, err := net.SplitHostPort(value); err != nil {
			refuse(key, "%q is not host:port", value)
		} else if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			refuse(key, "%q is not a port", port)
		}
	}
	address("listen", c.Listen)
	if c.MetricsListen != "" {
		address("metrics_listen", c.MetricsListen)
	}
	if c.ExtAuthzListen != "" {
		address("ext_authz_listen", c.ExtAuthzListen)
	}
	if path, ok := c.sqlite(); ok && path == "" || !ok && !c.postgres() {
		// The value is not shown: a database URL can hold a password.
		refuse("database", "must be sqlite:PATH, sqlite::memory: or postgres://…")
	}
	if c.BaseURL != "" {
		if u, err := url.Parse(c.BaseURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			refuse("base_url", "%q is not an http:// or https:// URL", c.BaseURL)
		}
	}
	if c.Policies != "" {
		if _, err := os.ReadDir(c.Policies); err != nil {
			refuse("policies", "%v", err)
		}
	}
	oneOf("policy.source", c.Policy.Source, "files", "database", "bundle")
	if c.Policy.Source != "files" && c.Policies != "" {
		refuse("policies", "is a folder, but policy.source is %s: publish what is in it instead", c.Policy.Source)
	}
	oneOf("policy.bundle.sequence", c.Policy.Bundle.Sequence, "metadata", "revision")
	if c.Policy.Source == "bundle" {
		c.checkBundle(refuse)
	}
	if c.Policy.MinCoverage < 0 || c.Policy.MinCoverage > 100 {
		refuse("policy.min_coverage", "%d is not from 0 to 100", c.Policy.MinCoverage)
	}
	if c.Policy.Shadow != "" {
		if _, err := os.ReadDir(c.Policy.Shadow); err != nil {
			refuse("policy.shadow", "%v", err)
		}
		if c.Policy.Source == "database" {
			refuse("policy.shadow", "is a folder, but policy.source is database: use ostiary policy shadow start")
		}
	}
	if n := c.Policy.ShadowSample; n <= 0 || n > 1 {
		refuse("policy.shadow_sample", "%v is not above 0 and at most 1", float64(n))
	}
	if err := policies.CheckFailOn(c.Policy.Replay.FailOn); err != nil {
		refuse("policy.replay.fail_on", "%v", err)
	}
	if c.Policy.Replay.Records == 0 {
		refuse("policy.replay.records", "must be at least 1")
	}
	if n := len(c.Secret); n > 0 && n < ostiary.MinSecret {
		refuse("secret", "has %d characters; it needs at least %d", n, ostiary.MinSecret)
	}
	for _, s := range c.OldSecrets {
		if len(s) < ostiary.MinSecret {
			refuse("old_secrets", "one has %d characters; each needs at least %d", len(s), ostiary.MinSecret)
		}
	}
	if n := len(c.ForwardAuth.Secret); n > 0 && n < forwardauth.MinSecret {
		refuse("forward_auth.secret", "has %d characters; it needs at least %d", n, forwardauth.MinSecret)
	}
	for _, s := range c.ForwardAuth.OldSecrets {
		if len(s) < forwardauth.MinSecret {
			refuse("forward_auth.old_secrets", "one has %d characters; each needs at least %d", len(s), forwardauth.MinSecret)
		}
	}
	if c.Secret == "" && c.postgres() {
		refuse("secret", "is needed with Postgres: set OSTIARY_SECRET to %d random characters or more", ostiary.MinSecret)
	}
	for _, id := range c.AuthZEN.Identifiers {
		if err := authzen.CheckIdentifier(id); err != nil {
			refuse("authzen.identifiers", "%v", err)
		}
	}
	if c.AuthZEN.SigningKey != "" {
		if _, err := signingKeys(c.AuthZEN.SigningKey); err != nil {
			refuse("authzen.signing_key", "%v", err)
		}
	}
	if c.AuthZEN.MaxEvaluations == 0 {
		refuse("authzen.max_evaluations", "must be at least 1")
	}
	if n := c.Decisions.Sample; n < 0 || n > 1 {
		refuse("decisions.sample", "%v is not from 0 to 1", float64(n))
	}
	if len(c.Decisions.Sinks) == 0 {
		refuse("decisions.sinks", "is empty; database is the one that can be searched")
	}
	for i, s := range c.Decisions.Sinks {
		kind, where, _ := strings.Cut(s, ":")
		switch {
		case slices.Contains(c.Decisions.Sinks[:i], s):
			refuse("decisions.sinks", "%q is there twice", s)
		case s == "database", s == "stdout", kind == "file" && where != "":
		case kind == "opa":
			// Not shown: a URL can hold a password.
			if u, err := url.Parse(where); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
				refuse("decisions.sinks", "opa: needs an http:// or https:// URL without credentials and query")
			}
		default:
			refuse("decisions.sinks", "%q is none of database, stdout, file:PATH, opa:URL", s)
		}
	}
	if c.Decisions.Strict && !slices.Contains(c.Decisions.Sinks, "database") {
		refuse("decisions.strict", "needs the sink database: others are never waited for")
	}
	if c.Search.Candidates == 0 {
		refuse("search.candidates", "must be at least 1")
	}
	if c.Search.Time == 0 {
		refuse("search.time", "must be more than 0s")
	}
	oneOf("cookies.secure", c.Cookies.Secure, "auto", "true", "false")
	oneOf("evaluator", c.Evaluator, "auto", "topdown")
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")
	for _, p := range c.Keys.DefaultPermissions {
		if kind, action, ok := strings.Cut(p, ":"); !ok || kind == "" || action == "" {
			refuse("keys.default_permissions", "%q is not type:action", p)
		}
	}
	for _, s := range settings(c) {
		if s.value.CanInt() && s.value.Int() < 0 {
			refuse(s.key, "is negative")
		}
	}
	span := func(least, most string, min, max int64) {
		if min > max {
			refuse(least, "is above %s", most)
		}
	}
	span("password.min", "password.max", int64(c.Password.Min), int64(c.Password.Max))
	span("username.min", "username.max", int64(c.Username.Min), int64(c.Username.Max))
	span("keys.name_min", "keys.name_max", int64(c.Keys.NameMin), int64(c.Keys.NameMax))
	span("keys.prefix_min", "keys.prefix_max", int64(c.Keys.PrefixMin), int64(c.Keys.PrefixMax))
	span("keys.min_life", "keys.max_life", int64(c.Keys.MinLife), int64(c.Keys.MaxLife))
	if c.Keys.RateLimitMax > 0 && c.Keys.RateLimitWindow == 0 {
		refuse("keys.rate_limit_max", "needs keys.rate_limit_window")
	}
	return mistakes
}

// checkBundle reports what is wrong with where bundles are to come from.
func (c *config) checkBundle(refuse func(key, format string, args ...any)) {
	b := c.Policy.Bundle
	u, err := url.Parse(b.URL)
	switch {
	case b.URL == "":
		refuse("policy.bundle.url", "is needed with policy.source bundle")
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		// Not shown: a URL can hold a password.
		refuse("policy.bundle.url", "must be an http:// or https:// URL without credentials and query")
	case u.Scheme == "http" && len(b.Keys) == 0 && !loopback(u.Hostname()):
		refuse("policy.bundle.url", "is http:// without policy.bundle.keys: whoever is on the way could say what the policy is")
	}
	if _, err := publicKeys(b.Keys); err != nil {
		refuse("policy.bundle.keys", "%v", err)
	}
	if b.Scope != "" && len(b.Keys) == 0 {
		refuse("policy.bundle.scope", "needs policy.bundle.keys")
	}
	for _, d := range []struct {
		key   string
		value time.Duration
		least time.Duration
	}{{"min_delay", b.MinDelay, time.Second}, {"max_delay", b.MaxDelay, time.Second}, {"long_poll", b.LongPoll, 0}} {
		if d.value < d.least || d.value%time.Second != 0 {
			refuse("policy.bundle."+d.key, "%s is not a number of whole seconds", d.value)
		}
	}
	if b.MinDelay > b.MaxDelay {
		refuse("policy.bundle.min_delay", "is above policy.bundle.max_delay")
	}
	if b.MaxSize == 0 {
		refuse("policy.bundle.max_size", "must be more than 0")
	}
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

func (c *config) sqlite() (path string, ok bool) { return strings.CutPrefix(c.Database, "sqlite:") }

func (c *config) postgres() bool {
	return strings.HasPrefix(c.Database, "postgres://") || strings.HasPrefix(c.Database, "postgresql://")
}

// ---- Values as people write them ----

const day = 24 * time.Hour

// fraction is a number from 0 to 1.
type fraction float64

// size is a number of bytes, written with or without a unit.
type size int64

var units = []struct {
	name string
	size size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

func parseSize(s string) (size, error) {
	for _, u := range units {
		if n, ok := strings.CutSuffix(s, u.name); ok {
			i, err := strconv.ParseInt(strings.TrimSpace(n), 10, 32)
			if err != nil {
				break
			}
			return size(i) * u.size, nil
		}
	}
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return size(i), nil
	}
	return 0, fmt.Errorf("%q is not a size such as 1MiB", s)
}

// parseDuration is time.ParseDuration with days.
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseInt(days, 10, 32); err == nil {
			return time.Duration(n) * day, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as 90s, 12h or 7d", s)
	}
	return d, nil
}

// decode turns what people write into what config holds.
func decode(from, to reflect.Type, data any) (any, error) {
	switch to {
	case reflect.TypeFor[time.Duration]():
		// A bare number would quietly be nanoseconds.
		return parseDuration(fmt.Sprint(data))
	case reflect.TypeFor[size]():
		return parseSize(fmt.Sprint(data))
	case reflect.TypeFor[fraction]():
		n, err := strconv.ParseFloat(fmt.Sprint(data), 64)
		if err != nil || math.IsNaN(n) {
			return nil, fmt.Errorf("%q is not a number such as 0.1", fmt.Sprint(data))
		}
		return fraction(n), nil
	case reflect.TypeFor[bool]():
		switch fmt.Sprint(data) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, fmt.Errorf("%q is neither true nor false", data)
	case reflect.TypeFor[int](), reflect.TypeFor[int64]():
		n, err := strconv.ParseInt(fmt.Sprint(data), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number", fmt.Sprint(data))
		}
		return n, nil
	case reflect.TypeFor[[]string]():
		switch from.Kind() {
		case reflect.String:
		case reflect.Slice:
			return data, nil
		default:
			return nil, errors.New("is not a list")
		}
		list := []string{}
		for item := range strings.SplitSeq(data.(string), ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		return list, nil
	case reflect.TypeFor[string]():
		switch from.Kind() {
		case reflect.Map, reflect.Slice:
			return nil, errors.New("is not a text")
		}
		return fmt.Sprint(data), nil
	}
	return data, nil
}

// format is the reverse of decode.
func format(v any) string {
	switch v := v.(type) {
	case []string:
		return strings.Join(v, ",")
	case size:
		for _, u := range units {
			if v >= u.size && v%u.size == 0 {
				return fmt.Sprintf("%d%s", v/u.size, u.name)
			}
		}
		return "0"
	case time.Duration:
		if v >= day && v%day == 0 {
			return fmt.Sprintf("%dd", v/day)
		}
		s := v.String() // 1h0m0s
		if strings.HasSuffix(s, "m0s") {
			s = strings.TrimSuffix(s, "0s")
		}
		if strings.HasSuffix(s, "h0m") {
			s = strings.TrimSuffix(s, "0m")
		}
		return s
	}
	return fmt.Sprint(v)
}

// kind names the type of a setting for the help and the documentation.
func kind(v reflect.Value) string {
	switch v.Interface().(type) {
	case time.Duration:
		return "duration"
	case size:
		return "size"
	case []string:
		return "list"
	case bool:
		return "bool"
	case int, int64, fraction:
		return "number"
	}
	return "text"
}
