package jail

import (
	"context"
	"errors"
	"net"
	"strconv"
)

// DialMachine connects to a port of this machine: at 127.0.0.1 or, where nobody listens
// there, at ::1, which is all that "localhost" is to some programs. An error is that of
// 127.0.0.1.
func DialMachine(ctx context.Context, network string, port uint16) (net.Conn, error) {
	var d net.Dialer
	at := strconv.Itoa(int(port))
	conn, err := d.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", at))
	if slow, ok := errors.AsType[net.Error](err); err == nil || ctx.Err() != nil || ok && slow.Timeout() {
		return conn, err
	}
	if six, other := d.DialContext(ctx, network, net.JoinHostPort("::1", at)); other == nil {
		return six, nil
	}
	return nil, err
}
