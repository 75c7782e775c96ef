package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	echo "sigs.k8s.io/gateway-api-conformance-images/echo-basic/grpcechoserver"
)

const patience = 10 * time.Second

// request is what the client is asked to do: `client URL [--method=M] [-H name:value]… [--count=N]`.
type request struct {
	url     *url.URL
	method  string
	headers []string
	count   int
}

func parse(args []string) (*request, error) {
	if len(args) == 0 {
		return nil, errors.New("usage: client URL [--method=M] [-H name:value]… [--count=N]")
	}
	target, err := url.Parse(args[0])
	if err != nil {
		return nil, err
	}
	asked := &request{url: target}
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	flags.StringVar(&asked.method, "method", http.MethodGet, "HTTP method")
	flags.IntVar(&asked.count, "count", 1, "how many times")
	flags.Func("H", "header, as name:value", func(header string) error {
		asked.headers = append(asked.headers, header)
		return nil
	})
	return asked, flags.Parse(args[1:])
}

// call does what the arguments ask for, and prints an answer and an empty line for each time.
func call(args []string, to io.Writer) error {
	asked, err := parse(args)
	if err != nil {
		return err
	}
	send := asked.http()
	if asked.url.Scheme == "grpc" {
		connection, err := grpc.NewClient("passthrough:///"+asked.url.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer connection.Close()
		send = asked.grpc(echo.NewGrpcEchoClient(connection))
	}
	for range asked.count {
		if err := send(to); err != nil {
			return err
		}
		fmt.Fprintln(to)
	}
	return nil
}

// http sends over connections that are kept, follows no redirect, and trusts any certificate.
func (asked *request) http() func(io.Writer) error {
	client := &http.Client{
		Timeout:       patience,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(to io.Writer) error {
		message, err := http.NewRequest(asked.method, asked.url.String(), nil)
		if err != nil {
			return err
		}
		for _, header := range asked.headers {
			name, value, _ := strings.Cut(header, ":")
			if strings.EqualFold(name, "host") {
				message.Host = value
			}
			message.Header.Add(name, value)
		}
		answer, err := client.Do(message)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		field(to, "Url", asked.url.String())
		field(to, "StatusCode", fmt.Sprint(answer.StatusCode))
		for name, values := range answer.Header {
			for _, value := range values {
				field(to, "ResponseHeader", name+":"+value)
			}
		}
		lines := bufio.NewScanner(answer.Body)
		for lines.Scan() {
			fmt.Fprintln(to, "body] "+lines.Text())
		}
		return lines.Err()
	}
}

// grpc sends over one connection. The suite asks for HTTP's way of saying that all is well.
func (asked *request) grpc(client echo.GrpcEchoClient) func(io.Writer) error {
	return func(to io.Writer) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		for _, header := range asked.headers {
			name, value, _ := strings.Cut(header, ":")
			ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(name), value)
		}
		answer, err := client.Echo(ctx, &echo.EchoRequest{})
		field(to, "Url", asked.url.String())
		if code := status.Code(err); code != codes.OK {
			field(to, "StatusCode", fmt.Sprint(uint32(code)))
			return nil
		}
		field(to, "StatusCode", "200")
		assertions := answer.GetAssertions()
		field(to, "Hostname", assertions.GetContext().GetPod())
		headers := assertions.GetHeaders()
		slices.SortStableFunc(headers, func(one, two *echo.Header) int { return strings.Compare(one.GetKey(), two.GetKey()) })
		for _, header := range headers {
			field(to, "RequestHeader", header.GetKey()+":"+header.GetValue())
		}
		return nil
	}
}
