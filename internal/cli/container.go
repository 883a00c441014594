package cli

import (
	"fmt"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"

	"github.com/spf13/cobra"
)

// defaultContainer is the annotation by which kubectl knows which of a pod's containers
// people mean.
const defaultContainer = "kubectl.kubernetes.io/default-container"

// containerFlag adds --container.
func (t *target) containerFlag(c *cobra.Command) {
	c.Flags().StringVarP(&t.container, "container", "c", "", "of a workload that somebody else deployed, the container whose process it is about (default: the one that has the port, the one that kubectl takes, the first)")
	t.completeContainers(c)
}

// pods is what is known of the pods of a workload that somebody else deployed.
type pods struct {
	containers  []core.Container
	annotations map[string]string
	behind      map[int]int // of a Kubernetes Service's own TCP ports, those of the pods
}

// choose returns the container that a session is about: the one that is named, the one
// that declares the port, the one that kubectl takes, the first. It is "" where no
// container is known.
func (p pods) choose(named string, port int) (string, error) {
	var names []string
	for _, c := range p.containers {
		names = append(names, c.Name)
	}
	if named != "" {
		if len(names) > 0 && !slices.Contains(names, named) {
			return "", codedError{code: exitNotFound, err: fmt.Errorf("--container %s: its pods have no such container; there is %s", named, strings.Join(names, ", "))}
		}
		return named, nil
	}
	for _, c := range p.containers {
		if port != 0 && slices.ContainsFunc(c.Ports, func(o core.ContainerPort) bool { return int(o.ContainerPort) == port }) {
			return c.Name, nil
		}
	}
	if usual := p.annotations[defaultContainer]; slices.Contains(names, usual) {
		return usual, nil
	}
	if len(names) == 0 {
		return "", nil
	}
	return names[0], nil
}

// others says which container was chosen, where there are several; else "".
func (p pods) others(chosen string) string {
	if len(p.containers) < 2 {
		return ""
	}
	var names []string
	for _, c := range p.containers {
		if c.Name != chosen {
			names = append(names, c.Name)
		}
	}
	return fmt.Sprintf("it is about the process of container %s (--container names another: %s)", chosen, strings.Join(names, ", "))
}
