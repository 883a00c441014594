// Package pause makes the image of the process that holds a pod's namespaces.
// No registry is needed to have it and no compiler: the program is a handful of
// machine instructions in an ELF file that [Program] writes.
//
// The program tells the kernel to reap its orphans (SIGCHLD ignored) and sleeps
// for ever. As the first process of its PID namespace it ignores every signal
// but SIGKILL, which is how a container runtime ends a sandbox.
package pause

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const (
	loadAddress = 0x400000
	headerSize  = 64 + 56 // one ELF header, one program header
)

// machine is what an architecture needs: its ELF number and the instructions.
// A zeroed sigaction follows the code; its handler is SIG_IGN (1).
type machine struct {
	elf  uint16
	code func(sigaction uint32) []byte
}

var machines = map[string]machine{
	"amd64": {elf: 62, code: func(sigaction uint32) []byte {
		b := []byte{
			0xb8, 13, 0, 0, 0, // mov eax, rt_sigaction
			0xbf, 17, 0, 0, 0, // mov edi, SIGCHLD
			0xbe, 0, 0, 0, 0, // mov esi, sigaction
			0x31, 0xd2, // xor edx, edx
			0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
			0x0f, 0x05, // syscall
			0xb8, 34, 0, 0, 0, // mov eax, pause
			0x0f, 0x05, // syscall
			0xeb, 0xf7, // jmp to mov eax, pause
		}
		binary.LittleEndian.PutUint32(b[11:], sigaction)
		return b
	}},
	"arm64": {elf: 183, code: func(sigaction uint32) []byte {
		words := []uint32{
			0xd2800220,                         // mov x0, SIGCHLD
			0xd2800001 | (sigaction&0xffff)<<5, // mov x1, low half of sigaction
			0xf2a00001 | (sigaction>>16)<<5,    // movk x1, high half
			0xd2800002,                         // mov x2, 0
			0xd2800103,                         // mov x3, 8
			0xd28010c8,                         // mov x8, rt_sigaction (134)
			0xd4000001,                         // svc 0
			0xd2800000,                         // mov x0, 0
			0xd2800001,                         // mov x1, 0
			0xd2800002,                         // mov x2, 0
			0xd2800003,                         // mov x3, 0
			0xd2800928,                         // mov x8, ppoll (73)
			0xd4000001,                         // svc 0
			0x17fffffa,                         // b to mov x0, 0
		}
		var b []byte
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return b
	}},
}

// Program returns the executable for a GOARCH.
func Program(arch string) ([]byte, error) {
	m, ok := machines[arch]
	if !ok {
		return nil, fmt.Errorf("no pause program for architecture %s: amd64 and arm64 are known", arch)
	}
	codeSize := len(m.code(0))
	actionOffset := (headerSize + codeSize + 7) &^ 7
	total := actionOffset + 32
	image := make([]byte, total)
	le := binary.LittleEndian
	copy(image, "\x7fELF\x02\x01\x01") // 64 bits, little endian, version 1
	le.PutUint16(image[16:], 2)        // executable
	le.PutUint16(image[18:], m.elf)
	le.PutUint32(image[20:], 1)
	le.PutUint64(image[24:], loadAddress+headerSize) // entry
	le.PutUint64(image[32:], 64)                     // program headers
	le.PutUint16(image[52:], 64)
	le.PutUint16(image[54:], 56)
	le.PutUint16(image[56:], 1)
	ph := image[64:]
	le.PutUint32(ph[0:], 1) // load
	le.PutUint32(ph[4:], 5) // readable, executable
	le.PutUint64(ph[16:], loadAddress)
	le.PutUint64(ph[24:], loadAddress)
	le.PutUint64(ph[32:], uint64(total))
	le.PutUint64(ph[40:], uint64(total))
	le.PutUint64(ph[48:], 0x10000)
	copy(image[headerSize:], m.code(uint32(loadAddress+actionOffset)))
	le.PutUint64(image[actionOffset:], 1) // SIG_IGN
	return image, nil
}

// Image returns an image whose entry point is the program.
func Image(arch string) (v1.Image, error) {
	program, err := Program(arch)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(program)), ModTime: time.Unix(0, 0)}); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	base, err := empty.Image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config := base.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Config.Entrypoint = []string{"/pause"}
	config.Config.User = "65535:65535"
	image, err := mutate.ConfigFile(empty.Image, config)
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(image, l)
}
