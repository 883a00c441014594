package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/bightdev/bight/internal/bridge"
	"github.com/bightdev/bight/internal/bridge/permit"
	"github.com/bightdev/bight/internal/kube"
	"github.com/bightdev/bight/internal/session"
	"github.com/bightdev/bight/internal/ui/term"
)

// shells are those that completion is written for.
func shells() []string { return []string{"bash", "zsh", "fish", "powershell"} }

func (p *Program) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion " + strings.Join(shells(), "|"),
		Short: "Print the completion script of a shell",
		Long: `Print the completion script of a shell. It completes commands and flags, and asks
for live values: services of the source here, workloads behind
deploy/ and the like, their containers, intercepts to leave, contexts, namespaces.

  bash        source <(bight completion bash)
  zsh         source <(bight completion zsh)
  fish        bight completion fish | source
  powershell  bight completion powershell | Out-String | Invoke-Expression

Put that line into the shell's start file. For kubectl bight, put a program named
kubectl_complete-bight on PATH: #!/bin/sh, then: exec kubectl-bight __complete "$@"`,
		Args: func(c *cobra.Command, args []string) error {
			if err := exactlyOne("a shell: "+strings.Join(shells(), ", "))(c, args); err != nil {
				return err
			}
			if !slices.Contains(shells(), args[0]) {
				return usageError("%s %s: there is %s", c.CommandPath(), args[0], strings.Join(shells(), ", "))
			}
			return nil
		},
		ValidArgs: shells(),
		RunE: func(c *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return c.Root().GenBashCompletionV2(p.Stdout, true)
			case "zsh":
				return c.Root().GenZshCompletion(p.Stdout)
			case "fish":
				return c.Root().GenFishCompletion(p.Stdout, true)
			default:
				return c.Root().GenPowerShellCompletionWithDesc(p.Stdout)
			}
		},
	}
}

// completionLimit is how long a person who pressed Tab is kept waiting.
const completionLimit = time.Second

// complete gives a flag's values. A flag that is not there is a mistake in this
// package.
func complete(c *cobra.Command, flag string, f cobra.CompletionFunc) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(fmt.Sprintf("complete --%s: %v", flag, err))
	}
}

func completeDirectories(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// completeServices gives the services of the plan of dir that are not named yet,
// for at most n arguments; -1 means any number.
func completeServices(dir *string, n int) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if n >= 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
		defer cancel()
		source, err := directory([]string{*dir})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		a, err := session.Plan(ctx, source)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, s := range a.Services {
			if !slices.Contains(args, s.Name) {
				names = append(names, s.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeSubjects gives the services of the plan of dir and, behind KIND/, the
// workloads of the namespace. Where a command follows, that is files.
func (t *target) completeSubjects(dir *string, command bool) cobra.CompletionFunc {
	services := completeServices(dir, 1)
	return func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 && command {
			return nil, cobra.ShellCompDirectiveDefault
		}
		written, _, isWorkload := strings.Cut(begun, "/")
		if !isWorkload || len(args) > 0 {
			return services(c, args, begun)
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
		defer cancel()
		client, namespace, err := t.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, name := range present(ctx, client, namespace, "", kindOf(written))[kindOf(written)] {
			names = append(names, written+"/"+name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeContainers gives the containers of the workload that is named.
func (t *target) completeContainers(c *cobra.Command) {
	complete(c, "container", func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		written, name, _ := strings.Cut(args[0], "/")
		ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
		defer cancel()
		client, namespace, err := t.client()
		if err != nil || kindsOfWorkloads()[kindOf(written)] == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		_, _, in, err := readWorkload(ctx, client, namespace, kindOf(written), name)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, o := range in.containers {
			names = append(names, o.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}

// completeIntercepts gives the IDs of the intercepts that this user may leave, and what
// they are.
func (p *Program) completeIntercepts(t *target, dir *string) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
		defer cancel()
		quiet := term.New(term.Config{Out: term.Stream{W: io.Discard}, Err: term.Stream{W: io.Discard}})
		defer quiet.Close()
		all, _, _, err := p.intercepts(ctx, t, *dir, quiet)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		me := ""
		if slices.ContainsFunc(all, ofWorkload) {
			if cluster, _, err := t.load(quiet); err == nil {
				me, _ = permit.Owner(ctx, cluster) // without it, none of them is known to be ours
			}
		}
		return ownIntercepts(all, ownName(), me), cobra.ShellCompDirectiveNoFileComp
	}
}

// ownIntercepts are the IDs, with a description each, of those that belong to here, as
// agents know this user, or to me, as the API server does.
func ownIntercepts(all []bridge.Intercept, here, me string) []string {
	var own []string
	for _, i := range all {
		mine := i.Owner == here
		if ofWorkload(i) {
			mine = me != "" && (i.Owner == me || strings.HasPrefix(i.Owner, me+" ("))
		}
		if mine {
			own = append(own, cobra.CompletionWithDesc(i.ID, fmt.Sprintf("%s:%d, %s", i.Service, i.Port, i.Match)))
		}
	}
	return own
}

// client asks the cluster that the flags mean, and their namespace, for completion.
func (t *target) client() (kubernetes.Interface, string, error) {
	cluster, err := kube.Load(kube.Options{Kubeconfig: t.kubeconfig, Context: t.context, Namespace: t.namespace})
	if err != nil {
		return nil, "", err
	}
	client, err := cluster.Typed()
	return client, cluster.Namespace, err
}

func (t *target) completeContexts(c *cobra.Command) {
	contexts := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		names, err := kube.Contexts(t.kubeconfig)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	complete(c, "context", contexts)
	complete(c, "allow-context", contexts)
}

func (t *target) completeNamespaces(c *cobra.Command) {
	complete(c, "namespace", func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
		defer cancel()
		cluster, err := kube.Load(kube.Options{Kubeconfig: t.kubeconfig, Context: t.context})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := cluster.Typed()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := client.CoreV1().Namespaces().List(ctx, meta.ListOptions{Limit: 500})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp // perhaps they may not be listed
		}
		var names []string
		for _, ns := range list.Items {
			names = append(names, ns.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
}
