// Command service is what the agent's tests run under the agent.
package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	mode := "serve"
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	switch mode {
	case "serve":
		serve()
	case "exit-on-term": // CODE: ends with it when it is told to stop
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("up")
		<-c
		n, _ := strconv.Atoi(os.Args[2])
		os.Exit(n)
	case "die": // SIGNAL: kills itself with it
		n, _ := strconv.Atoi(os.Args[2])
		fmt.Println("up")
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		time.Sleep(time.Minute)
	case "signals": // prints the signals that it gets
		c := make(chan os.Signal, 16)
		signal.Notify(c, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.Signal(40), syscall.SIGTERM)
		fmt.Println("up")
		for s := range c {
			fmt.Println("got", int(s.(syscall.Signal)))
			if s == syscall.SIGTERM {
				os.Exit(0)
			}
		}
	case "orphans": // leaves short-lived grandchildren behind, and a long-lived one
		for range 20 {
			start("sh-less", "parent-of", "short")
		}
		start("sh-less", "parent-of", "long")
		serve()
	case "parent-of":
		child := exec.Command("/proc/self/exe", os.Args[2])
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			fmt.Println(err)
		}
	case "short":
		time.Sleep(50 * time.Millisecond)
	case "long":
		time.Sleep(time.Hour)
	case "talk":
		fmt.Print("to stdout")
		fmt.Fprint(os.Stderr, "to stderr")
		for _, kv := range os.Environ() {
			if strings.HasPrefix(kv, "BIGHT_") {
				fmt.Print(" ", kv)
			}
		}
		time.Sleep(time.Hour)
	}
}

func start(_, mode, arg string) {
	cmd := exec.Command("/proc/self/exe", mode, arg)
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
	}
}

func serve() {
	b, err := os.ReadFile("version.txt")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		fmt.Println(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		wd, _ := os.Getwd()
		fmt.Fprintf(w, "%s %d %s", b, os.Getuid(), wd)
	})
	fmt.Println(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
	os.Exit(1)
}
