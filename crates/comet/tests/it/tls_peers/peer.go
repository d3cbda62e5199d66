// A client of Go's crypto/tls between its standard input and output: ADDRESS CERTIFICATE VERSION.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"os"
)

func main() {
	pem, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	version := map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}[os.Args[3]]
	conn, err := tls.Dial("tcp", os.Args[1], &tls.Config{
		RootCAs: roots, ServerName: "a.example", MinVersion: version, MaxVersion: version,
	})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		if _, err := io.Copy(conn, os.Stdin); err != nil {
			log.Fatal(err)
		}
		conn.CloseWrite()
	}()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		log.Fatal(err)
	}
}
