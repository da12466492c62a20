//go:build tools

// Package tools names the programs of Hyperledger Fabric CA, so that go.mod holds
// their exact version. They are apart from Fabric's, whose version of viper writes the
// names of attributes in small letters, by which Fabric CA does not know them.
package tools

import (
	_ "github.com/hyperledger/fabric-ca/cmd/fabric-ca-client"
	_ "github.com/hyperledger/fabric-ca/cmd/fabric-ca-server"
)
