package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// hidden stands where a secret's value is not shown.
const hidden = "(hidden)"

// Manifests writes objects as one YAML stream. The values of Secrets are shown
// only if asked for; without them the stream is for reading, not for applying.
func Manifests(objs []Object, showSecrets bool) ([]byte, error) {
	docs, err := ManifestsJSON(objs, showSecrets)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for i, doc := range docs {
		y, err := yaml.JSONToYAML(doc)
		if err != nil {
			return nil, fmt.Errorf("write %s as YAML: %w", objs[i].Ref, err)
		}
		b.WriteString("---\n")
		b.Write(y)
	}
	return b.Bytes(), nil
}

// ManifestsJSON is Manifests with one JSON object per object.
func ManifestsJSON(objs []Object, showSecrets bool) ([]json.RawMessage, error) {
	docs := make([]json.RawMessage, len(objs))
	for i, o := range objs {
		docs[i] = o.JSON
		if o.Kind == "Secret" && !showSecrets {
			var err error
			if docs[i], err = hideData(o); err != nil {
				return nil, err
			}
		}
	}
	return docs, nil
}

// hideData replaces the values of a Secret by a word that is no base64, so that
// nobody applies it by mistake.
func hideData(o Object) ([]byte, error) {
	var fields map[string]any
	if err := json.Unmarshal(o.JSON, &fields); err != nil {
		return nil, fmt.Errorf("decode %s: %w", o.Ref, err)
	}
	data, _ := fields["data"].(map[string]any)
	for k := range data {
		data[k] = hidden
	}
	return json.Marshal(fields)
}

// FileExistsError tells which files Eject would have had to overwrite. Nothing
// was written.
type FileExistsError struct {
	Dir   string
	Files []string
}

func (e *FileExistsError) Error() string {
	return fmt.Sprintf("these files in %s exist with other content: %s; nothing was written: choose another directory, or use --force to overwrite them",
		e.Dir, strings.Join(e.Files, ", "))
}

// Eject writes objects into dir as a kustomize base: a file per service, one for
// the app's own objects, and kustomization.yaml. Values of Secrets go to files of
// their own below secrets/, which git is told to ignore. The objects have no
// namespace: kustomization.yaml gives them the one that is told, none if that is "".
// Its images are where those that were built are named. It returns the paths that it
// wrote, relative to dir. A file that exists with other content is
// overwritten only by force; that is checked before anything is written.
func Eject(dir, namespace string, objs []Object, force bool) ([]string, error) {
	files, err := ejected(namespace, objs)
	if err != nil {
		return nil, err
	}
	var write, clash []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		have, err := os.ReadFile(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			write = append(write, name)
		case err != nil:
			return nil, fmt.Errorf("eject: %w", err)
		case !bytes.Equal(have, files[name].content):
			write, clash = append(write, name), append(clash, name)
		}
	}
	if len(clash) > 0 && !force {
		return nil, &FileExistsError{Dir: dir, Files: clash}
	}
	for i, name := range write {
		if err := replaceFile(filepath.Join(dir, name), files[name]); err != nil {
			return write[:i], fmt.Errorf("eject: %w", err)
		}
	}
	return write, nil
}

type ejectedFile struct {
	content []byte
	mode    fs.FileMode
}

// ejected renders the files of a kustomize base, by path.
func ejected(namespace string, objs []Object) (map[string]ejectedFile, error) {
	type generator struct {
		Name    string            `json:"name"`
		Files   []string          `json:"files"`
		Options map[string]any    `json:"options"`
		Type    corev1.SecretType `json:"type"`
	}
	files := map[string]ejectedFile{}
	bodies := map[string][]byte{}
	var secrets []generator
	var images []map[string]string
	for _, o := range objs {
		if o.Kind == "Secret" {
			var s corev1.Secret
			if err := o.Decode(&s); err != nil {
				return nil, err
			}
			g := generator{Name: s.Name, Type: s.Type, Options: map[string]any{"disableNameSuffixHash": true, "labels": s.Labels}}
			for _, key := range slices.Sorted(maps.Keys(s.Data)) {
				path := "secrets/" + s.Name + "/" + key
				files[path] = ejectedFile{s.Data[key], 0o600}
				g.Files = append(g.Files, key+"="+path)
			}
			secrets = append(secrets, g)
			continue
		}
		named, err := imagesOf(o)
		if err != nil {
			return nil, err
		}
		for _, name := range named {
			if strings.Contains(name, "@") {
				continue // built, and named by its content
			}
			images = append(images, map[string]string{"name": name, "newName": name})
		}
		if o, err = anywhere(o); err != nil {
			return nil, err
		}
		doc, err := Manifests([]Object{o}, false)
		if err != nil {
			return nil, err
		}
		name := o.Service + ".yaml"
		switch o.Service {
		case "":
			name = "app.yaml"
		case "kustomization":
			name = "service-kustomization.yaml"
		}
		bodies[name] = append(bodies[name], doc...)
	}
	k := map[string]any{
		"apiVersion": "kustomize.config.k8s.io/v1beta1",
		"kind":       "Kustomization",
		"resources":  slices.Sorted(maps.Keys(bodies)),
	}
	if namespace != "" {
		k["namespace"] = namespace
	}
	if len(images) > 0 {
		k["images"] = images
	}
	if len(secrets) > 0 {
		k["secretGenerator"] = secrets
		files["secrets/.gitignore"] = ejectedFile{[]byte("# These are secrets. Keep them where secrets belong.\n*\n!.gitignore\n"), 0o644}
	}
	y, err := yaml.Marshal(k)
	if err != nil {
		return nil, fmt.Errorf("write kustomization.yaml: %w", err)
	}
	head := ejectedHead
	if len(images) > 0 {
		head = ejectedImages + "#\n" + head
	}
	bodies["kustomization.yaml"] = append([]byte(head), y...)
	for name, b := range bodies {
		files[name] = ejectedFile{b, 0o644}
	}
	return files, nil
}

// ejectedImages explains the images of a kustomization, where some are not built.
const ejectedImages = `# The images are not built yet. bight build --registry REGISTRY builds and pushes them and
# prints where each is, REGISTRY/NAME@DIGEST: write that into images, as newName and
# digest.
`

// ejectedHead explains the namespace of a kustomization.
const ejectedHead = `# The objects are made in the namespace of kubectl apply -k DIR -n NAMESPACE, unless there
# is one here.
`

// imagesOf are the images of a Deployment, none of another object.
func imagesOf(o Object) ([]string, error) {
	if o.Kind != "Deployment" {
		return nil, nil
	}
	var d appsv1.Deployment
	if err := o.Decode(&d); err != nil {
		return nil, err
	}
	var all []string
	for _, c := range d.Spec.Template.Spec.Containers {
		all = append(all, c.Image)
	}
	return all, nil
}

// anywhere is an object without its namespace.
func anywhere(o Object) (Object, error) {
	var fields map[string]any
	if err := json.Unmarshal(o.JSON, &fields); err != nil {
		return o, fmt.Errorf("decode %s: %w", o.Ref, err)
	}
	if metadata, ok := fields["metadata"].(map[string]any); ok {
		delete(metadata, "namespace")
	}
	var err error
	o.JSON, err = json.Marshal(fields)
	return o, err
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, f ejectedFile) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".bight-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(f.content)
	err = errors.Join(err, tmp.Chmod(f.mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
