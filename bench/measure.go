package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// workloads are what engines are measured on: one question again and again, or
// all of them in turn.
var workloads = []string{typical, keyed, "mix"}

// sample is one pass of one engine on one workload.
type sample struct{ ns, allocs, bytes float64 }

// measureEngines runs passes of about a tenth of a second, one of each engine in
// turn, so that a disturbance hits all of them: what counts is the median of the
// ratios within a pass.
func measureEngines(out io.Writer, dir string, passes int) error {
	testing.Init()
	if err := flag.Set("test.benchtime", "100ms"); err != nil {
		return err
	}
	raw, err := os.Create(filepath.Join(dir, "engines.txt"))
	if err != nil {
		return err
	}
	defer raw.Close()
	for _, workload := range workloads {
		if err := measureWorkload(out, raw, workload, passes); err != nil {
			return fmt.Errorf("%s: %w", workload, err)
		}
	}
	return raw.Close()
}

func measureWorkload(out, raw io.Writer, workload string, passes int) error {
	type contender struct {
		name    string
		decide  func(int) (bool, error)
		asked   []question
		samples []sample
	}
	var contenders []*contender
	for _, e := range engines() {
		var asked []question
		for _, q := range questions() {
			if (workload == "mix" || q.name == workload) && e.can(&q) {
				asked = append(asked, q)
			}
		}
		// Half of a mix is not the mix.
		if len(asked) == 0 || workload == "mix" && len(asked) < len(questions()) {
			continue
		}
		decide, stop, err := e.open(asked)
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		defer stop()
		if err := verify(asked, decide); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		contenders = append(contenders, &contender{name: e.name, decide: decide, asked: asked})
	}
	for range passes {
		for _, c := range contenders {
			var failure error
			r := testing.Benchmark(func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; i < b.N; i++ {
					k := i % len(c.asked)
					if allow, err := c.decide(k); err != nil || allow != c.asked[k].allow {
						failure = fmt.Errorf("%s: %s: %v, %w", c.name, c.asked[k].name, allow, cmp.Or(err, errors.New("another answer")))
						b.FailNow()
					}
				}
			})
			if failure != nil {
				return failure
			}
			c.samples = append(c.samples, sample{float64(r.T.Nanoseconds()) / float64(r.N), float64(r.AllocsPerOp()), float64(r.AllocedBytesPerOp())})
			fmt.Fprintf(raw, "BenchmarkDecision/%s/%s\t%s\t%s\n", workload, c.name, r, r.MemString())
		}
	}
	fmt.Fprintf(out, "\none decision in process: %s, %d passes\n\n", workload, passes)
	fmt.Fprintf(out, "| engine | median | quartiles | allocs | bytes | ostiary is | spread |\n| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, c := range contenders {
		ns, ratios := make([]float64, passes), make([]float64, passes)
		for i := range c.samples {
			ns[i] = c.samples[i].ns
			ratios[i] = c.samples[i].ns / contenders[0].samples[i].ns
		}
		low, mid, high := quartiles(ns)
		rlow, rmid, rhigh := quartiles(ratios)
		last := c.samples[passes-1]
		fmt.Fprintf(out, "| %s | %s | %s to %s | %.0f | %.0f | %.2f× as fast | %.2f to %.2f |\n",
			c.name, nanoseconds(mid), nanoseconds(low), nanoseconds(high), last.allocs, last.bytes, rmid, rlow, rhigh)
	}
	return nil
}

// verify asks everything once: an engine that answers otherwise is not compared.
func verify(asked []question, decide func(int) (bool, error)) error {
	for i, q := range asked {
		allow, err := decide(i)
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		if allow != q.allow {
			return fmt.Errorf("%s: answers %v", q.name, allow)
		}
	}
	return nil
}

// quartiles returns the lower one, the median and the upper one.
func quartiles(v []float64) (low, mid, high float64) {
	v = slices.Sorted(slices.Values(v))
	at := func(p float64) float64 {
		x := p * float64(len(v)-1)
		i := int(x)
		if i+1 == len(v) {
			return v[i]
		}
		return v[i] + (x-float64(i))*(v[i+1]-v[i])
	}
	return at(0.25), at(0.5), at(0.75)
}

func nanoseconds(ns float64) string {
	switch {
	case ns < 1e3:
		return fmt.Sprintf("%.0f ns", ns)
	case ns < 1e6:
		return fmt.Sprintf("%.2f µs", ns/1e3)
	}
	return fmt.Sprintf("%.2f ms", ns/1e6)
}
