// The suite's image echo-advanced, as far as the suite asks for it: a server that answers HTTP and gRPC with what it got,
// and, called by the name client, a client that prints what it was answered. Both write a field a line, `Name=value`.
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
)

func main() {
	var err error
	if filepath.Base(os.Args[0]) == "client" {
		err = call(os.Args[1:], os.Stdout)
	} else {
		err = serve(os.Args[1:])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// field writes one line of an answer.
func field(to interface{ Write([]byte) (int, error) }, name, value string) {
	fmt.Fprintf(to, "%s=%s\n", name, value)
}
