package policies

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long files have to be left alone before they are read again:
// editors and deployments write several files, and each in several steps.
const settle = 100 * time.Millisecond

// patience is how long a folder in which something always moves is waited for.
const patience = time.Second

// Watch reloads until ctx ends, which is no error: when the files of Dir change, or
// when something was published. Without either it just waits.
// It fails if the system cannot watch the folder.
func (l *Library) Watch(ctx context.Context) error {
	if l.options.Store != nil {
		l.watchStore(ctx)
		return nil
	}
	if l.options.Dir == "" {
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		// A new watch for each round, set up before the files are read: what
		// changes from then on is seen, whatever was created, renamed or
		// swapped since the last round.
		w, err := watch(l.options.Dir)
		if err != nil {
			return fmt.Errorf("watch the policy folder: %w", err)
		}
		_ = l.Reload(ctx) // a failure is in the log and in Status
		err = w.wait(ctx)
		w.Close()
		if err != nil {
			return fmt.Errorf("watch the policy folder: %w", err)
		}
	}
	return nil
}

// watcher tells when what a folder holds may have changed.
type watcher struct {
	*fsnotify.Watcher
	// names are the entries that matter of the folders that are watched only
	// for some: those of links, and what leads to the folder.
	names map[string]map[string]bool
	whole map[string]bool // folders of which every entry matters
}

func watch(dir string) (*watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &watcher{n, map[string]map[string]bool{}, map[string]bool{}}
	if err := w.addTree(dir); err != nil {
		n.Close()
		return nil, err
	}
	return w, nil
}

// addTree watches dir with all below it, and the links on the way.
func (w *watcher) addTree(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	real, err := w.follow(abs, 0)
	if err != nil || real == "" || w.whole[real] {
		return err
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return nil // gone meanwhile, or a file: its folder is watched
	}
	w.whole[real] = true
	if err := w.Add(real); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // reading it will say so
		}
		return err
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return nil // likewise
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !e.IsDir() && e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		if err := w.addTree(filepath.Join(real, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// follow resolves the links in path, and watches for each that it be replaced,
// and for path itself that it come or go. It returns "" if path leads nowhere.
func (w *watcher) follow(path string, links int) (string, error) {
	if links > 40 {
		return "", nil // a circle; reading it will say so
	}
	root := filepath.VolumeName(path) + string(filepath.Separator)
	at := root
	rest := strings.Split(strings.TrimPrefix(filepath.Clean(path), root), string(filepath.Separator))
	for i, name := range rest {
		if name == "" {
			continue
		}
		next := filepath.Join(at, name)
		info, err := os.Lstat(next)
		if err != nil {
			return "", w.addName(at, name)
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			if err := w.addName(at, name); err != nil {
				return "", err
			}
			target, err := os.Readlink(next)
			if err != nil {
				return "", nil
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(at, target)
			}
			return w.follow(filepath.Join(append([]string{target}, rest[i+1:]...)...), links+1)
		}
		if i == len(rest)-1 && !w.whole[at] {
			if err := w.addName(at, name); err != nil {
				return "", err
			}
		}
		at = next
	}
	return at, nil
}

// addName watches dir for what happens to its entry name.
func (w *watcher) addName(dir, name string) error {
	if w.names[dir] == nil {
		w.names[dir] = map[string]bool{}
	}
	w.names[dir][name] = true
	err := w.Add(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// wait returns when something changed and then nothing for a while, or when
// ctx ends.
func (w *watcher) wait(ctx context.Context) error {
	var quiet, enough <-chan time.Time
	changed := func() {
		quiet = time.After(settle)
		if enough == nil {
			enough = time.After(patience)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-quiet:
			return nil
		case <-enough:
			return nil
		case err := <-w.Errors:
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return err
			}
			changed()
		case e := <-w.Events:
			if w.matters(e) {
				changed()
			}
		}
	}
}

func (w *watcher) matters(e fsnotify.Event) bool {
	dir, name := filepath.Split(e.Name)
	dir = filepath.Clean(dir)
	return w.whole[e.Name] || w.whole[dir] || w.names[dir][name] || w.names[e.Name] != nil
}
