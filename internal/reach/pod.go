package reach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"unicode/utf8"

	"github.com/bightdev/bight/internal/stream"
)

// maxPod bounds the JSON of a pod: an environment may have a MiB or more.
const maxPod = 16 << 20

// Pod is what a process in a pod was given. There are secrets in it.
type Pod struct {
	Hostname string `json:"hostname"`
	// Dir is the working directory, "" if only the image knows it.
	Dir string `json:"dir,omitempty"`
	// UID and GID are -1 where they are not known.
	UID    int   `json:"uid"`
	GID    int   `json:"gid"`
	Groups []int `json:"groups,omitempty"`
	// Env is the environment that the container was started with.
	Env []Variable `json:"env"`
	// ResolvConf and Hosts are the contents of these files, "" where they are not
	// known.
	ResolvConf string  `json:"resolvConf,omitempty"`
	Hosts      string  `json:"hosts,omitempty"`
	Mounts     []Mount `json:"mounts,omitempty"`
	// Listening are the TCP addresses that are listened on, in the whole pod.
	Listening []netip.AddrPort `json:"listening,omitempty"`
	// IPv6 says that the pod has an address of IPv6 that others can have to do with.
	IPv6 bool `json:"ipv6,omitempty"`
	// Notes say what could not be found out, and why.
	Notes []string `json:"notes,omitempty"`
	// Error is why nothing was, for GetPod.
	Error string `json:"error,omitempty"`
}

// Variable is one variable of an environment.
type Variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// variableJSON is a variable, in bytes where JSON's strings can't hold it.
type variableJSON struct {
	Name     string `json:"name,omitempty"`
	Value    string `json:"value"`
	RawName  []byte `json:"rawName,omitempty"`
	RawValue []byte `json:"rawValue,omitempty"`
}

// MarshalJSON keeps variables that are no UTF-8 as they are, in base64.
func (v Variable) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(v.Name) && utf8.ValidString(v.Value) {
		return json.Marshal(variableJSON{Name: v.Name, Value: v.Value})
	}
	return json.Marshal(variableJSON{RawName: []byte(v.Name), RawValue: []byte(v.Value)})
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (v *Variable) UnmarshalJSON(b []byte) error {
	var j variableJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*v = Variable{j.Name, j.Value}
	if j.RawName != nil {
		*v = Variable{string(j.RawName), string(j.RawValue)}
	}
	return nil
}

// MountKind is what a mount comes from.
type MountKind string

// Kinds of mounts.
const (
	ConfigMap   MountKind = "configMap"
	Secret      MountKind = "secret"
	Projected   MountKind = "projected"
	DownwardAPI MountKind = "downwardAPI"
	// Kubelet is one of the above: from inside the pod they look the same when
	// they are kept in memory.
	Kubelet  MountKind = "kubelet"
	EmptyDir MountKind = "emptyDir"
	Other    MountKind = "other" // a claim, a directory of the node, ...
)

// Mount is a place where the process finds files that are not the image's.
type Mount struct {
	Path   string    `json:"path"` // without symbolic links
	Kind   MountKind `json:"kind"`
	Volume string    `json:"volume,omitempty"` // its name in the pod, where known
	// File says that it is a single file.
	File     bool `json:"file,omitempty"`
	ReadOnly bool `json:"readOnly,omitempty"`
	// Copied says that [WatchFiles] brings its files. Others are only listed.
	Copied bool `json:"copied,omitempty"`
}

// GetPod asks the agent what its process was given.
func GetPod(ctx context.Context, open Opener) (*Pod, error) {
	st, err := open.Open(ctx, []byte(headerPod))
	if err != nil {
		return nil, fmt.Errorf("ask for the pod's environment: %w", err)
	}
	defer st.Close()
	stop := context.AfterFunc(ctx, func() { st.Reset(stream.CodeAborted) })
	b, err := io.ReadAll(io.LimitReader(st, maxPod+1))
	if !stop() {
		err = context.Cause(ctx)
	}
	if err == nil && len(b) > maxPod {
		err = fmt.Errorf("it has more than %d bytes", maxPod)
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the pod's environment: %w", refusedBy(err))
	}
	var p Pod
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, fmt.Errorf("read the pod's environment: %w", err)
	}
	if p.Error != "" {
		return nil, fmt.Errorf("ask for the pod's environment: %s", p.Error)
	}
	return &p, nil
}

// refusedBy explains the error of an agent that does not know a header, or does not
// allow what it asks for.
func refusedBy(err error) error {
	var reset *stream.ResetError
	switch {
	case !errors.As(err, &reset):
	case reset.Code == codeForbidden:
		return fmt.Errorf("the intercept is for requests alone, it does not allow to read the pod's environment and files or to use its network: %w", err)
	case reset.Code == stream.CodeRefused:
		return fmt.Errorf("the agent can't do that, it is of another version: %w", err)
	}
	return err
}
