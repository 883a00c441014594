// Command box is what the reference pod has in it: the least that kubectl exec
// needs at the other end. `box wait` keeps the pod, `box true` does nothing,
// `box untar DIR` unpacks standard input as tar does. It runs in an image without
// anything else.
package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "true":
		return nil
	case len(args) == 1 && args[0] == "wait":
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM, os.Interrupt)
		<-asked
		return nil
	case len(args) == 2 && args[0] == "untar":
		return untar(args[1], bufio.NewReaderSize(os.Stdin, 1<<20))
	}
	return errors.New("usage: box wait | box true | box untar DIR")
}

// untar unpacks directories and files into dir.
func untar(dir string, from io.Reader) error {
	for archive := tar.NewReader(from); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.FromSlash(header.Name))
		switch header.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			err = write(path, archive, header.FileInfo().Mode().Perm())
		}
		if err != nil {
			return err
		}
	}
}

func write(path string, content io.Reader, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
