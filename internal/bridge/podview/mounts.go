package podview

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/bightdev/bight/internal/reach"
)

// mounts computes where a container finds files and which.
type mounts struct {
	pod       *corev1.Pod
	container *corev1.Container
	objects   *objects
	vars      map[string]string // for subPathExpr
	notes     []string
}

// file is one file of a volume.
type file struct {
	content []byte
	mode    fs.FileMode
}

// contents are the files of a volume by their paths below it.
type contents struct {
	files   map[string]file
	leftOut []reach.LeftOut
}

func (m *mounts) compute() (all []reach.Mount, sets []reach.FileSet) {
	for _, vm := range m.container.VolumeMounts {
		at := slices.IndexFunc(m.pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == vm.Name })
		if at < 0 {
			continue // the API server lets no such pod in
		}
		source := m.pod.Spec.Volumes[at].VolumeSource
		out := reach.Mount{Path: path.Clean(vm.MountPath), Kind: reach.Other, Volume: vm.Name, ReadOnly: vm.ReadOnly}
		if source.EmptyDir != nil {
			out.Kind = reach.EmptyDir
		}
		kind, c := m.contents(source)
		if kind == "" {
			all = append(all, out)
			continue
		}
		out.Kind, out.ReadOnly, out.Copied = kind, true, true
		sub, err := m.subPath(vm)
		if err != nil {
			c = contents{leftOut: []reach.LeftOut{{Why: err.Error()}}}
		}
		set := c.set(sub)
		set.Path = out.Path
		for i, l := range set.LeftOut {
			set.LeftOut[i].Path = path.Join(out.Path, l.Path)
		}
		out.File = len(set.Entries) == 1 && set.Entries[0].Name == "."
		all, sets = append(all, out), append(sets, set)
	}
	return all, sets
}

// subPath is the part of the volume that is mounted, "" for all.
func (m *mounts) subPath(vm corev1.VolumeMount) (string, error) {
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		unknown := ""
		sub = expand(vm.SubPathExpr, func(name string) (string, bool) {
			v, ok := m.vars[name]
			if !ok {
				unknown = name
			}
			return v, ok
		})
		if unknown != "" {
			return "", fmt.Errorf("its subPathExpr %q refers to variable %s, which is not known", vm.SubPathExpr, unknown)
		}
	}
	if sub == "" {
		return "", nil
	}
	return path.Clean(sub), nil
}

// contents are the files of a volume; the kind is "" if they are not kubelet's.
func (m *mounts) contents(v corev1.VolumeSource) (reach.MountKind, contents) {
	c := contents{files: map[string]file{}}
	switch {
	case v.ConfigMap != nil:
		m.configMap(&c, v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.DefaultMode, v.ConfigMap.Optional)
		return reach.ConfigMap, c
	case v.Secret != nil:
		m.secret(&c, v.Secret.SecretName, v.Secret.Items, v.Secret.DefaultMode, v.Secret.Optional)
		return reach.Secret, c
	case v.DownwardAPI != nil:
		m.downward(&c, v.DownwardAPI.Items, v.DownwardAPI.DefaultMode)
		return reach.DownwardAPI, c
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			m.projection(&c, s, v.Projected.DefaultMode)
		}
		return reach.Projected, c
	}
	return "", c
}

func (m *mounts) projection(c *contents, s corev1.VolumeProjection, mode *int32) {
	switch {
	case s.ConfigMap != nil:
		m.configMap(c, s.ConfigMap.Name, s.ConfigMap.Items, mode, s.ConfigMap.Optional)
	case s.Secret != nil:
		m.secret(c, s.Secret.Name, s.Secret.Items, mode, s.Secret.Optional)
	case s.DownwardAPI != nil:
		m.downward(c, s.DownwardAPI.Items, mode)
	case s.ServiceAccountToken != nil:
		t := s.ServiceAccountToken
		if token, ok := m.objects.tokens[keyOf(t)]; ok {
			c.add(t.Path, []byte(token), nil, mode)
		} else {
			c.leave(t.Path, "there is no token")
		}
	case s.ClusterTrustBundle != nil:
		c.leave(s.ClusterTrustBundle.Path, "cluster trust bundles are not copied")
	case s.PodCertificate != nil:
		p := s.PodCertificate
		for _, name := range []string{p.CredentialBundlePath, p.KeyPath, p.CertificateChainPath} {
			if name != "" {
				c.leave(name, "the certificates of a pod do not leave its node")
			}
		}
	}
}

func (c *contents) add(name string, b []byte, mode, standard *int32) {
	const plain = 0o644
	f := file{content: b, mode: plain}
	if standard != nil {
		f.mode = fs.FileMode(*standard).Perm()
	}
	if mode != nil {
		f.mode = fs.FileMode(*mode).Perm()
	}
	name = path.Clean(name)
	if !fs.ValidPath(name) || name == "." || strings.HasPrefix(name, "..") {
		c.leave(name, "it is no path below a volume")
		return
	}
	c.files[name] = f
}

func (c *contents) leave(name, why string) {
	c.leftOut = append(c.leftOut, reach.LeftOut{Path: name, Why: why})
}

func (m *mounts) configMap(c *contents, name string, items []corev1.KeyToPath, mode *int32, optional *bool) {
	o := m.objects.configMaps[name]
	data := map[string][]byte{}
	if o != nil {
		maps.Copy(data, o.BinaryData)
		for k, v := range o.Data {
			data[k] = []byte(v)
		}
	}
	c.keys(fmt.Sprintf("ConfigMap %q", name), o != nil, data, items, mode, optional)
}

func (m *mounts) secret(c *contents, name string, items []corev1.KeyToPath, mode *int32, optional *bool) {
	o := m.objects.secrets[name]
	var data map[string][]byte
	if o != nil {
		data = o.Data
	}
	c.keys(fmt.Sprintf("Secret %q", name), o != nil, data, items, mode, optional)
}

// keys adds the keys of an object: all, or those that items name.
func (c *contents) keys(what string, exists bool, data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional *bool) {
	may := optional != nil && *optional
	if !exists && !may {
		c.leave("", what+" does not exist")
	}
	if len(items) == 0 {
		for k, v := range data {
			c.add(k, v, nil, mode)
		}
	}
	for _, i := range items {
		if v, ok := data[i.Key]; ok {
			c.add(i.Path, v, i.Mode, mode)
		} else if exists && !may {
			c.leave(i.Path, fmt.Sprintf("%s has no key %q", what, i.Key))
		}
	}
}

func (m *mounts) downward(c *contents, items []corev1.DownwardAPIVolumeFile, mode *int32) {
	for _, i := range items {
		var value string
		var err error
		switch {
		case i.FieldRef != nil:
			value, err = fieldValue(m.pod, i.FieldRef.FieldPath)
		case i.ResourceFieldRef != nil:
			value, err = resourceValue(m.pod, m.container, i.ResourceFieldRef, m.objects.allocatable)
		}
		if err != nil {
			c.leave(i.Path, err.Error())
			continue
		}
		c.add(i.Path, []byte(value), i.Mode, mode)
	}
}

// set shows the files, or the part of them that sub names, in kubelet's layout.
func (c *contents) set(sub string) reach.FileSet {
	set := reach.FileSet{LeftOut: c.leftOut}
	if f, ok := c.files[sub]; ok && sub != "" {
		set.Entries = []reach.File{{Name: ".", Mode: f.mode, Content: f.content}}
		return set
	}
	if sub != "" {
		part := contents{files: map[string]file{}}
		for name, f := range c.files {
			if rest, ok := strings.CutPrefix(name, sub+"/"); ok {
				part.files[rest] = f
			}
		}
		if len(part.files) == 0 {
			set.LeftOut = append(set.LeftOut, reach.LeftOut{Why: fmt.Sprintf("the volume has no file %q", sub)})
		}
		set.Entries = part.tree("")
		return set
	}
	version := c.version()
	set.Entries = append(c.tree(version), reach.File{Name: "..data", Mode: fs.ModeSymlink | 0o777, Target: version})
	var tops []string
	for name := range c.files {
		top, _, _ := strings.Cut(name, "/")
		tops = append(tops, top)
	}
	slices.Sort(tops)
	for _, top := range slices.Compact(tops) {
		set.Entries = append(set.Entries, reach.File{Name: top, Mode: fs.ModeSymlink | 0o777, Target: "..data/" + top})
	}
	return set
}

// version names the directory of this state of the files.
func (c *contents) version() string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		f := c.files[name]
		fmt.Fprintf(h, "%q %o %x\n", name, f.mode, sha256.Sum256(f.content))
	}
	return fmt.Sprintf("..%x", h.Sum(nil)[:6])
}

// tree lists the files below dir, each directory before what is in it.
func (c *contents) tree(dir string) []reach.File {
	var all []reach.File
	made := map[string]bool{"": true, ".": true}
	var mkdir func(dir string)
	mkdir = func(dir string) {
		if !made[dir] {
			mkdir(path.Dir(dir))
			made[dir] = true
			all = append(all, reach.File{Name: dir, Mode: fs.ModeDir | 0o755})
		}
	}
	mkdir(dir)
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		f := c.files[name]
		name = path.Join(dir, name)
		mkdir(path.Dir(name))
		all = append(all, reach.File{Name: name, Mode: f.mode, Content: f.content})
	}
	return all
}
