package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	echo "sigs.k8s.io/gateway-api-conformance-images/echo-basic/grpcechoserver"
)

// serve listens as the arguments say, or with HTTP on port 8080, until something goes wrong. A certificate is made up: nobody checks it.
func serve(args []string) error {
	ports := map[string]func(net.Listener) error{}
	encrypted := map[string]bool{}
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	on := func(name, usage string, server func(port string) func(net.Listener) error) {
		flags.Func(name, usage, func(port string) error {
			ports[port] = server(port)
			return nil
		})
	}
	on("port", "port with HTTP", http1)
	on("tcp", "port that returns all bytes", func(string) func(net.Listener) error { return tcp })
	on("grpc", "port with gRPC", func(string) func(net.Listener) error { return rpc })
	flags.Func("tls", "port that is encrypted", func(port string) error {
		encrypted[port] = true
		return nil
	})
	flags.String("crt", "", "not read")
	flags.String("key", "", "not read")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if len(ports) == 0 {
		ports["8080"] = http1("8080")
	}
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	ended := make(chan error)
	for port, server := range ports {
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		if encrypted[port] {
			listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}}) //nolint:gosec
		}
		go func() { ended <- fmt.Errorf("port %s: %w", port, server(listener)) }()
	}
	return <-ended
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// http1 answers with what was asked, a field a line.
func http1(port string) func(net.Listener) error {
	handler := http.HandlerFunc(func(to http.ResponseWriter, asked *http.Request) {
		field(to, "ServicePort", port)
		field(to, "Host", asked.Host)
		field(to, "URL", asked.URL.RequestURI())
		field(to, "Method", asked.Method)
		field(to, "Proto", asked.Proto)
		if peer, _, err := net.SplitHostPort(asked.RemoteAddr); err == nil {
			field(to, "IP", peer)
		}
		field(to, "RequestHeader", "Host:"+asked.Host)
		for name, values := range asked.Header {
			for _, value := range values {
				field(to, "RequestHeader", name+":"+value)
			}
		}
		field(to, "Hostname", hostname())
	})
	server := &http.Server{Handler: handler, ReadHeaderTimeout: patience}
	return server.Serve
}

func tcp(listener net.Listener) error {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			_, _ = io.Copy(connection, connection)
		}()
	}
}

type rpcServer struct {
	echo.UnimplementedGrpcEchoServer
}

// Echo says who answers, and which headers came.
func (rpcServer) Echo(ctx context.Context, _ *echo.EchoRequest) (*echo.EchoResponse, error) {
	assertions := &echo.Assertions{Context: &echo.Context{Pod: hostname()}}
	headers, _ := metadata.FromIncomingContext(ctx)
	for key, values := range headers {
		for _, value := range values {
			assertions.Headers = append(assertions.Headers, &echo.Header{Key: key, Value: value})
		}
	}
	return &echo.EchoResponse{Assertions: assertions}, nil
}

func rpc(listener net.Listener) error {
	server := grpc.NewServer()
	echo.RegisterGrpcEchoServer(server, rpcServer{})
	return server.Serve(listener)
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(1, 0, 0),
		DNSNames:     []string{hostname()},
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}, err
}
