package main

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "rewrite generated files")

// loaded runs load in an empty folder with the given file, environment and
// arguments.
func loaded(t *testing.T, file string, env map[string]string, args ...string) (config, error) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "OSTIARY_") || strings.HasPrefix(name, "BETTER_AUTH_") {
			t.Setenv(name, "")
		}
	}
	t.Chdir(t.TempDir())
	if file != "" {
		if err := os.WriteFile("ostiary.yaml", []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range env {
		t.Setenv(name, value)
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addFlags(flags, nil)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return load(flags)
}

func TestDefaultsAreValid(t *testing.T) {
	c, err := loaded(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := defaults(); !reflect.DeepEqual(normal(c), normal(want)) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

// normal makes empty lists equal to nil ones.
func normal(c config) config {
	for _, s := range settings(&c) {
		if s.value.Kind() == reflect.Slice && s.value.Len() == 0 {
			s.value.SetZero()
		}
	}
	return c
}

// other is a valid text for s that is not its default.
func other(s setting) string {
	switch s.key {
	case "listen", "metrics_listen":
		return "127.0.0.1:1234"
	case "database":
		return "sqlite:other.db"
	case "secret", "old_secrets", "forward_auth.secret", "forward_auth.old_secrets":
		return "0123456789abcdef0123456789abcdef"
	case "ext_authz_listen":
		return "127.0.0.1:9191"
	case "base_url", "authzen.identifiers":
		return "https://auth.example.test"
	case "policies", "policy.shadow":
		return "."
	case "evaluator":
		return "topdown"
	case "policy.replay.fail_on":
		return "any"
	case "cookies.secure":
		return "true"
	case "log.level":
		return "debug"
	case "log.format":
		return "json"
	case "policy.source":
		return "database"
	case "policy.bundle.sequence":
		return "revision"
	case "keys.default_permissions":
		return "user:list,session:revoke"
	case "decisions.sample", "policy.shadow_sample":
		return "0.25"
	case "decisions.sinks":
		return "database,file:decisions.log,opa:https://logs.example.test/opa"
	}
	switch v := s.value.Interface().(type) {
	case time.Duration:
		return (v + 24*time.Hour).String()
	case size:
		return fmt.Sprint(int64(v) * 2)
	case []string:
		return "one,two"
	case bool:
		return fmt.Sprint(!v)
	case int:
		return fmt.Sprint(v + 1)
	case int64:
		return fmt.Sprint(v + 1)
	}
	return "other"
}

// Every setting can be given in the file, in the environment and as a flag,
// and a flag wins over the environment, which wins over the file.
func TestEverySettingFromEverywhere(t *testing.T) {
	d := defaults()
	for _, s := range settings(&d) {
		t.Run(s.key, func(t *testing.T) {
			want := other(s)
			switch s.key {
			case "username.min", "keys.name_min", "keys.prefix_min", "keys.min_life":
				want = format(s.value.Interface()) // the default is as good
			case "authzen.signing_key":
				want = keyFile(t)
			}
			value := func(c config) string {
				for _, got := range settings(&c) {
					if got.key == s.key {
						return format(got.value.Interface())
					}
				}
				return "no such key"
			}
			sections, member := path(s.key)
			file := ""
			for depth, name := range sections {
				file += strings.Repeat("  ", depth) + name + ":\n"
			}
			file += fmt.Sprintf("%s%s: %q\n", strings.Repeat("  ", len(sections)), member, want)
			was := format(s.value.Interface())

			fromFile, err := loaded(t, file, nil)
			if err != nil {
				t.Fatalf("file: %v", err)
			}
			fromEnv, err := loaded(t, "", map[string]string{s.env[0]: want})
			if err != nil {
				t.Fatalf("environment: %v", err)
			}
			fromFlag, err := loaded(t, "", nil, "--"+s.flag()+"="+want)
			if err != nil {
				t.Fatalf("flag: %v", err)
			}
			if a, b, c := value(fromFile), value(fromEnv), value(fromFlag); a != b || b != c {
				t.Errorf("file %q, environment %q, flag %q: not the same", a, b, c)
			} else if a == was && want != was {
				t.Errorf("still the default %q", a)
			}
			if was == "" {
				return // an empty variable is one that is not set
			}
			envWins, err := loaded(t, file, map[string]string{s.env[0]: was})
			if err != nil || value(envWins) != was {
				t.Errorf("environment over file: got %q, %v, want %q", value(envWins), err, was)
			}
			flagWins, err := loaded(t, "", map[string]string{s.env[0]: want}, "--"+s.flag()+"="+was)
			if err != nil || value(flagWins) != was {
				t.Errorf("flag over environment: got %q, %v, want %q", value(flagWins), err, was)
			}
		})
	}
}

func TestBetterAuthNamesAreRead(t *testing.T) {
	c, err := loaded(t, "", map[string]string{
		"BETTER_AUTH_SECRET":          "0123456789abcdef0123456789abcdef",
		"BETTER_AUTH_URL":             "https://auth.example.test",
		"BETTER_AUTH_TRUSTED_ORIGINS": "https://a.example.test, https://b.example.test",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Secret == "" || c.BaseURL != "https://auth.example.test" || len(c.TrustedOrigins) != 2 {
		t.Errorf("got %q %q %q", c.Secret, c.BaseURL, c.TrustedOrigins)
	}
	c, err = loaded(t, "", map[string]string{"BETTER_AUTH_URL": "https://theirs.example.test", "OSTIARY_BASE_URL": "https://ours.example.test"})
	if err != nil || c.BaseURL != "https://ours.example.test" {
		t.Errorf("our own name must win: got %q, %v", c.BaseURL, err)
	}
}

// Where Better Auth is given several secrets, the first signs, and wins over a
// single one; ours wins over both.
func TestFirstOfVersionedSecretsSigns(t *testing.T) {
	const single, second, third = "0123456789abcdef0123456789abcdef", "second:89abcdef0123456789abcdef0123", "third456789abcdef0123456789abcdef"
	env := map[string]string{"BETTER_AUTH_SECRET": single, "BETTER_AUTH_SECRETS": " 2: " + second + " ,1:" + third}
	if c, err := loaded(t, "", env); err != nil || c.Secret != second || len(c.OldSecrets) != 0 {
		t.Errorf("got %q, %q, %v; want %q", c.Secret, c.OldSecrets, err, second)
	}
	env["OSTIARY_SECRET"] = third
	if c, err := loaded(t, "", env); err != nil || c.Secret != third {
		t.Errorf("got %q, %v; want %q", c.Secret, err, third)
	}
	for _, list := range []string{second[7:], "x:" + single, "1:", ":" + single, "1: ,2:" + single, "1:short", ","} {
		_, err := loaded(t, "", map[string]string{"BETTER_AUTH_SECRETS": list})
		if err == nil || !strings.Contains(err.Error(), "BETTER_AUTH_SECRETS: ") || strings.Contains(err.Error(), single) {
			t.Errorf("%q: got %v", list, err)
		}
	}
}

// All mistakes are told at once, each with the place it was made in.
func TestMistakesAreToldTogether(t *testing.T) {
	_, err := loaded(t, `listen: 127.0.0.1:8080
sesion:
  life: 1d
session:
  life: 60
  liffe: 1d
log: loud
password:
  min: eight
sign_up: maybe
sign_up: true
cookies: {secure: often}
`, map[string]string{"OSTIARY_SECRET": "short", "OSTIARY_CACHE_LIFE": "soon"}, "--limits-body=1 elephant")
	if err == nil {
		t.Fatal("no error")
	}
	got := err.Error()
	for _, want := range []string{
		`ostiary.yaml:2: unknown key "sesion"`,
		`ostiary.yaml:6: unknown key "session.liffe"`,
		`ostiary.yaml:7: "log" is a section, not a value`,
		`ostiary.yaml:11: "sign_up" is there twice`,
		`OSTIARY_SECRET: has 5 characters; it needs at least 32`,
		`OSTIARY_CACHE_LIFE: "soon" is not a duration such as 90s, 12h or 7d`,
		`--limits-body: "1 elephant" is not a size such as 1MiB`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in:\n%s", want, got)
		}
	}

	_, err = loaded(t, "session:\n  life: 60\npassword:\n  min: eight\nsign_up: maybe\nlisten: [a, b]\ntrusted_origins: {a: b}\n", nil)
	want := `ostiary.yaml:6: listen: is not a text
ostiary.yaml:7: trusted_origins: is not a list
ostiary.yaml:2: session.life: "60" is not a duration such as 90s, 12h or 7d
ostiary.yaml:5: sign_up: "maybe" is neither true nor false
ostiary.yaml:4: password.min: "eight" is not a whole number`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}

	_, err = loaded(t, "", nil, "--listen=here", "--database=mysql://user:pass@host/db", "--base-url=auth", "--policies=nowhere",
		"--secret=short", "--forward-auth-secret=short too", "--forward-auth-old-secrets=shorter", "--ext-authz-listen=there", "--log-level=loud", "--username-min=40", "--keys-rate-limit-max=5", "--keys-rate-limit-window=0s", "--cache-size=-1", "--keys-default-permissions=user",
		"--authzen-identifiers=https://a.example,http://b.example", "--authzen-signing-key=nowhere.pem", "--authzen-max-evaluations=0")
	want = `--listen: "here" is not host:port
--ext-authz-listen: "there" is not host:port
--database: must be sqlite:PATH, sqlite::memory: or postgres://…
--base-url: "auth" is not an http:// or https:// URL
--policies: open nowhere: no such file or directory
--secret: has 5 characters; it needs at least 32
--forward-auth-secret: has 9 characters; it needs at least 32
--forward-auth-old-secrets: one has 7 characters; each needs at least 32
--authzen-identifiers: identifier "http://b.example": must be an https URL without query and fragment
--authzen-signing-key: stat nowhere.pem: no such file or directory
--authzen-max-evaluations: must be at least 1
--log-level: "loud" is none of debug, info, warn, error
--keys-default-permissions: "user" is not type:action
--cache-size: is negative
--username-min: is above username.max
--keys-rate-limit-max: needs keys.rate_limit_window`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestUnreadableFilesAreMistakes(t *testing.T) {
	if _, err := loaded(t, "listen: [", nil); err == nil || !strings.Contains(err.Error(), "ostiary.yaml: line 1:") {
		t.Errorf("broken file: got %v", err)
	}
	if _, err := loaded(t, "", nil, "--config=nowhere.yaml"); err == nil || !strings.Contains(err.Error(), "nowhere.yaml") {
		t.Errorf("missing file: got %v", err)
	}
	if _, err := loaded(t, "", map[string]string{"OSTIARY_CONFIG": "nowhere.yaml"}); err == nil {
		t.Error("missing file in OSTIARY_CONFIG: no error")
	}
	for _, empty := range []string{"# nothing\n", "session:\n", "listen: ~\n"} {
		c, err := loaded(t, empty, nil)
		if err != nil || !reflect.DeepEqual(normal(c), normal(defaults())) {
			t.Errorf("%q: got %+v, %v, want the defaults", empty, c, err)
		}
	}
}

func TestPostgresNeedsASecret(t *testing.T) {
	_, err := loaded(t, "", nil, "--database=postgres://localhost/ostiary")
	if err == nil || !strings.Contains(err.Error(), "secret: is needed with Postgres") {
		t.Errorf("got %v", err)
	}
}

// ---- Generated from the settings: run with -update to write them ----

func generated(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the settings say: run make generate", path)
	}
}

// path takes a key apart.
func path(key string) (sections []string, member string) {
	all := strings.Split(key, ".")
	return all[:len(all)-1], all[len(all)-1]
}

func TestGeneratedExample(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Every setting of ostiary with its default. Each can also be given as a flag
# (session.life is --session-life) and in the environment
# (OSTIARY_SESSION_LIFE); flags win over the environment, the environment over
# this file. Generated: run make generate.
`)
	c := defaults()
	var within []string // sections
	for _, s := range settings(&c) {
		sections, member := path(s.key)
		if len(sections) == 0 {
			b.WriteString("\n")
		}
		for depth, name := range sections {
			if depth < len(within) && within[depth] == name {
				continue
			}
			if depth == 0 {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", depth), name)
		}
		within = sections
		indent := strings.Repeat("  ", len(sections))
		fmt.Fprintf(&b, "%s# %s\n%s%s: %s\n", indent, s.help, indent, member, yamlText(t, s))
	}
	generated(t, "../../ostiary.yaml", b.String())

	// What is documented as the default is the default.
	c, err := loaded(t, b.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := defaults(); !reflect.DeepEqual(normal(c), normal(want)) {
		t.Errorf("the file says %+v\nthe defaults are %+v", c, want)
	}
}

func yamlText(t *testing.T, s setting) string {
	if s.value.Kind() == reflect.Slice {
		return "[" + strings.Join(s.value.Interface().([]string), ", ") + "]"
	}
	if kind(s.value) != "text" {
		return format(s.value.Interface())
	}
	text, err := yaml.Marshal(s.value.Interface())
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestGeneratedConfigurationPage(t *testing.T) {
	const file = "../../docs/configuration.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("<!-- settings: run make generate -->\n| key | default | |\n| --- | --- | --- |\n")
	c := defaults()
	for _, s := range settings(&c) {
		value := format(s.value.Interface())
		if value != "" {
			value = "`" + value + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", s.key, value, s.help)
	}
	b.WriteString("<!-- end -->")
	table := regexp.MustCompile(`(?s)<!-- settings.*?<!-- end -->`)
	if !table.Match(page) {
		t.Fatalf("%s has no place for the table", file)
	}
	generated(t, file, table.ReplaceAllLiteralString(string(page), b.String()))
}
