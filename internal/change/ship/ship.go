// Package ship is `bight ship` on the user's side: it registers an app, pushes HEAD and
// follows the change until it is deployed or refused.
//
// The main type is [Shipper]. One Shipper does one thing at a time.
package ship

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/bightdev/bight/api/v1alpha1"
	"github.com/bightdev/bight/internal/change"
	"github.com/bightdev/bight/internal/change/client"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/kube/follow"
)

// Shipper brings commits of one app to a cluster.
type Shipper struct {
	Cluster *kube.Cluster
	Client  *client.Client
	// Namespace and Name are the App's.
	Namespace, Name string
	// Say tells the user a sentence.
	Say func(text string)
	Log *slog.Logger
}

// Source is a git repository on this machine, and the app in it.
type Source struct {
	Root      string // of the repository
	Directory string // of the app in it, "" for the root
	Head      string // the commit
	Dirty     []string
}

// sha1Digits is how long the name of a commit is in repositories that a cluster serves.
const sha1Digits = 40

// ReadSource looks at the repository that dir is in.
func ReadSource(ctx context.Context, dir string) (*Source, error) {
	root, err := git(ctx, dir, nil, "rev-parse", "--show-toplevel")
	if err != nil {
		return nil, fmt.Errorf("%s is in no git repository: make one with git init, git add and git commit: what is shipped is a commit", dir)
	}
	s := &Source{Root: root}
	if s.Head, err = git(ctx, dir, nil, "rev-parse", "--verify", "HEAD^{commit}"); err != nil {
		return nil, fmt.Errorf("the repository %s has no commit yet: what is shipped is a commit (git add, git commit)", root)
	}
	if len(s.Head) > sha1Digits {
		return nil, fmt.Errorf("the repository %s names its objects by SHA-256, and those that a cluster serves do by SHA-1: "+
			"git init --object-format=sha1 elsewhere, and git fast-export --all here into git fast-import there, make one that can be shipped", root)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(root, real)
	if err != nil {
		return nil, err
	}
	if rel != "." {
		s.Directory = filepath.ToSlash(rel)
	}
	status, err := git(ctx, dir, nil, "status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(status) {
		s.Dirty = append(s.Dirty, strings.TrimSpace(line[min(2, len(line)):]))
	}
	return s, nil
}

// git runs the user's git and returns what it prints.
func git(ctx context.Context, dir string, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		for len(args) > 2 && args[0] == "-c" {
			args = args[2:]
		}
		return "", fmt.Errorf("git %s: %s", args[0], strings.TrimSpace(errs.String()))
	}
	return strings.TrimRight(out.String(), "\n"), nil
}

func (s *Shipper) resource(r schema.GroupVersionResource) (dynamic.ResourceInterface, error) {
	d, err := s.Cluster.Dynamic()
	if err != nil {
		return nil, err
	}
	return d.Resource(r).Namespace(s.Namespace), nil
}

// Registration is what an App is made with when there is none, and must not contradict
// when there is one.
type Registration struct {
	Branch       string // "": main, or what the App says
	Directory    string
	Environments []v1alpha1.Environment // none: prod, or what the App says
}

// Register returns the App, which it makes where there is none, and waits until the
// controller serves its repository.
func (s *Shipper) Register(ctx context.Context, with Registration) (*v1alpha1.App, error) {
	apps, err := s.resource(v1alpha1.Apps())
	if err != nil {
		return nil, err
	}
	u, err := apps.Get(ctx, s.Name, metav1.GetOptions{})
	if unknownKind(err) {
		return nil, s.explain(err)
	}
	if apierrors.IsNotFound(err) {
		u, err = s.create(ctx, apps, with)
	}
	if err != nil {
		return nil, fmt.Errorf("find or make app %s in namespace %s: %w", s.Name, s.Namespace, s.Cluster.Explain(err))
	}
	app := &v1alpha1.App{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, app); err != nil {
		return nil, err
	}
	if app.Spec.Directory != with.Directory {
		return nil, fmt.Errorf("app %s in namespace %s is in directory %q of its repository, and this is %q: ship from there, or give this app another name in bight.yaml",
			s.Name, s.Namespace, dot(app.Spec.Directory), dot(with.Directory))
	}
	if err := otherwise(app, with); err != nil {
		return nil, err
	}
	return s.served(ctx, apps, app)
}

// unknownKind reports whether the API server knows no such kind, rather than no such
// object, whose name it would say.
func unknownKind(err error) bool {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	return ok && apierrors.IsNotFound(err) && (status.Status().Details == nil || status.Status().Details.Name == "")
}

// notInstalledError says that the cluster has nothing of Bight.
type notInstalledError struct {
	context string
	err     error
}

func (e *notInstalledError) Error() string {
	return fmt.Sprintf("the cluster of context %q knows no apps and changes: whoever runs it installs them once with bight install", e.context)
}

func (e *notInstalledError) Unwrap() error { return e.err }

// explain says why a request failed.
func (s *Shipper) explain(err error) error {
	if unknownKind(err) {
		return &notInstalledError{s.Cluster.Context, err}
	}
	return s.Cluster.Explain(err)
}

func dot(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}

func (s *Shipper) create(ctx context.Context, apps dynamic.ResourceInterface, with Registration) (*unstructured.Unstructured, error) {
	if err := s.namespace(ctx); err != nil {
		return nil, err
	}
	with.Branch = cmp.Or(with.Branch, "main")
	if len(with.Environments) == 0 {
		with.Environments = []v1alpha1.Environment{{Name: "prod"}}
	}
	app := &v1alpha1.App{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "App"},
		ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace},
		Spec:       v1alpha1.AppSpec{Branch: with.Branch, Directory: with.Directory, Environments: with.Environments},
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(app)
	if err != nil {
		return nil, err
	}
	u, err := apps.Create(ctx, &unstructured.Unstructured{Object: object}, metav1.CreateOptions{FieldManager: "bight"})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range with.Environments {
		names = append(names, e.Name+" (namespace "+change.Namespace(s.Name, e)+")")
	}
	s.Say(fmt.Sprintf("made app %s in namespace %s: changes go to %s", s.Name, s.Namespace, strings.Join(names, ", then ")))
	return u, nil
}

// namespace makes the App's namespace where there is none.
func (s *Shipper) namespace(ctx context.Context) error {
	typed, err := s.Cluster.Typed()
	if err != nil {
		return err
	}
	_, err = typed.CoreV1().Namespaces().Get(ctx, s.Namespace, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return nil // there, or not to be seen: making the App tells
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.Namespace}}
	_, err = typed.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{FieldManager: "bight"})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// patience is how long the controller may take to see a new App.
const patience = 30 * time.Second

var errSeen = errors.New("seen")

// served waits until the controller serves an App's repository.
func (s *Shipper) served(ctx context.Context, apps dynamic.ResourceInterface, app *v1alpha1.App) (*v1alpha1.App, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the controller does not serve app %s after %s: see kubectl -n %s get app %[1]s -o yaml", app.Name, patience, app.Namespace))
	defer cancel()
	err := each(ctx, apps, app.Name, func(now *v1alpha1.App) error {
		ready := meta.FindStatusCondition(now.Status.Conditions, "Ready")
		if ready == nil || ready.ObservedGeneration < now.Generation {
			return nil
		}
		if ready.Status != metav1.ConditionTrue {
			return fmt.Errorf("app %s: %s", app.Name, ready.Message)
		}
		app = now
		return errSeen
	})
	if errors.Is(err, errSeen) {
		return app, nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	return nil, err
}

// each calls do with an object as it is and with each change of it, until do returns
// an error.
func each[T any](ctx context.Context, client dynamic.ResourceInterface, name string, do func(*T) error) error {
	only := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
	return follow.Of(client, only).Changes(ctx, "", func(c follow.Change) error {
		all := c.All
		if c.Event != "" {
			all = []runtime.Object{c.Object}
		}
		if c.Event == watch.Deleted {
			return fmt.Errorf("%s was deleted", name)
		}
		for _, o := range all {
			now := new(T)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.(*unstructured.Unstructured).Object, now); err != nil {
				return err
			}
			if err := do(now); err != nil {
				return err
			}
		}
		return nil
	})
}

// Push pushes a commit to the app's branch, which makes a change of it, and returns
// the change's name. A commit that is there already is no error.
func (s *Shipper) Push(ctx context.Context, src *Source, app *v1alpha1.App) (string, error) {
	if app.Spec.Source != nil {
		return "", fmt.Errorf("the repository of app %s is at %s: push there, and the change follows", app.Name, app.Spec.Source.URL)
	}
	remote, err := s.Client.Remote(ctx, s.Namespace, s.Name)
	if err != nil {
		return "", err
	}
	defer remote.Close()
	if err := src.push(ctx, remote.Env(), remote.URL, app.Spec.Branch); err != nil {
		return "", err
	}
	name := change.Name(s.Name, src.Head)
	all, err := s.List(ctx, s.Name)
	if err != nil {
		return "", err
	}
	if found := of(all, name, src.Head); found != "" {
		return found, nil
	}
	if registered, err := s.App(ctx, s.Name); err == nil && registered.Status.Head == src.Head {
		return "", fmt.Errorf("commit %.12s is the newest of %s already, and no change has it: there is nothing to ship until there is another commit", src.Head, app.Spec.Branch)
	}
	return name, nil
}

// push pushes the commit. The branch never moves by that: what does not build on its
// newest commit is merged with it by the queue.
func (s *Source) push(ctx context.Context, env []string, url, branch string) error {
	// A large file is streamed, not held in memory, and what is sent is compressed as files in .git are by default:
	// to do it better takes longer than to send what is saved.
	_, err := git(ctx, s.Root, env, "-c", "core.bigFileThreshold=8m", "-c", "pack.compression=1", "push", "--quiet", url, "+"+s.Head+":refs/heads/"+branch)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// A shallow clone can be pushed from when the other side has the rest of its history.
	if shallow, _ := git(ctx, s.Root, nil, "rev-parse", "--is-shallow-repository"); shallow == "true" && strings.Contains(err.Error(), "shallow") {
		return fmt.Errorf("the repository %s is a shallow clone, and the app's repository lacks the history that this one was cloned without: git fetch --unshallow, and ship again", s.Root)
	}
	return err
}

// of finds the change of a commit: its own, or the one that was merged as it, whose
// commit git push has nothing to do for.
func of(all []v1alpha1.Change, name, commit string) (found string) {
	for _, c := range all {
		switch {
		case c.Name == name:
			return name
		case c.Status.Merged == commit && found == "":
			found = c.Name
		}
	}
	return found
}

// Fetch brings the app's branch to refs/remotes/bight in the user's repository.
func (s *Shipper) Fetch(ctx context.Context, src *Source, app *v1alpha1.App) (ref string, err error) {
	remote, err := s.Client.Remote(ctx, s.Namespace, s.Name)
	if err != nil {
		return "", err
	}
	defer remote.Close()
	ref = "bight/" + app.Spec.Branch
	for tries := 0; ; tries++ {
		_, err = git(ctx, src.Root, remote.Env(), "fetch", "--quiet", "--no-tags", remote.URL, "+refs/heads/"+app.Spec.Branch+":refs/remotes/"+ref)
		if err == nil || ctx.Err() != nil || tries >= 10 {
			return ref, err
		}
		select { // another controller may be about to act
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// Behind reports whether the commit has a history in common with ref, and ref has
// more: then the commit can be rebased onto it.
func (s *Source) Behind(ctx context.Context, ref string) bool {
	tip, err := git(ctx, s.Root, nil, "rev-parse", "--verify", ref+"^{commit}")
	if err != nil {
		return false
	}
	base, err := git(ctx, s.Root, nil, "merge-base", tip, s.Head) // nothing where they have none
	return err == nil && base != tip
}

// Follow calls see with a change whenever it has changed, until it has ended or is
// waits for somebody's word, and returns it. A change that does not appear is an error.
func (s *Shipper) Follow(ctx context.Context, name string, see func(*v1alpha1.Change)) (*v1alpha1.Change, error) {
	changes, err := s.resource(v1alpha1.Changes())
	if err != nil {
		return nil, err
	}
	var last *v1alpha1.Change
	err = each(ctx, changes, name, func(now *v1alpha1.Change) error {
		last = now
		see(now)
		if change.Ended(now) && !change.Retried(now) || change.Waits(now) {
			return errSeen
		}
		return nil
	})
	if errors.Is(err, errSeen) {
		return last, nil
	}
	return last, err
}

// App returns an app of the namespace.
func (s *Shipper) App(ctx context.Context, name string) (*v1alpha1.App, error) {
	apps, err := s.resource(v1alpha1.Apps())
	if err != nil {
		return nil, err
	}
	u, err := apps.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, s.explain(err)
	}
	a := &v1alpha1.App{}
	return a, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, a)
}

// Get returns a change.
func (s *Shipper) Get(ctx context.Context, name string) (*v1alpha1.Change, error) {
	changes, err := s.resource(v1alpha1.Changes())
	if err != nil {
		return nil, err
	}
	u, err := changes.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, s.explain(err)
	}
	c := &v1alpha1.Change{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, c); err != nil {
		return nil, err
	}
	tidy(c)
	return c, nil
}

// tidy makes a change fit to be shown: without the API server's own notes, and with a
// phase also in the moment before the controller has looked at it.
func tidy(c *v1alpha1.Change) {
	c.ManagedFields = nil
	c.Status.Phase = cmp.Or(c.Status.Phase, v1alpha1.Pending)
}

// List returns the changes of a namespace, the newest first; of one app where one is
// named.
func (s *Shipper) List(ctx context.Context, app string) ([]v1alpha1.Change, error) {
	changes, err := s.resource(v1alpha1.Changes())
	if err != nil {
		return nil, err
	}
	o := metav1.ListOptions{}
	if app != "" {
		o.LabelSelector = v1alpha1.AppLabel + "=" + app
	}
	list, err := changes.List(ctx, o)
	if err != nil {
		return nil, s.explain(err)
	}
	all := &v1alpha1.ChangeList{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.UnstructuredContent(), all); err != nil {
		return nil, err
	}
	for i := range all.Items {
		tidy(&all.Items[i])
	}
	slices.SortFunc(all.Items, func(a, b v1alpha1.Change) int { return int(min(max(b.Spec.Order-a.Spec.Order, -1), 1)) })
	return all.Items, nil
}

// Patch changes fields of a change's spec, if nobody else has changed it meanwhile.
func (s *Shipper) Patch(ctx context.Context, c *v1alpha1.Change, spec map[string]any) error {
	changes, err := s.resource(v1alpha1.Changes())
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": c.ResourceVersion}, "spec": spec})
	if err != nil {
		return err
	}
	_, err = changes.Patch(ctx, c.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: "bight"})
	if err != nil {
		return fmt.Errorf("change %s: %w", c.Name, s.Cluster.Explain(err))
	}
	return nil
}
