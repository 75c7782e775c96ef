//go:build tools

// Package etcd pins what is built from here.
package etcd

import _ "go.etcd.io/etcd/server/v3"
