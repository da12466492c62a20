package fabric_test

import (
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// The stack file is checked against the Compose specification, for there need be no
// engine to try it on.
func TestTheStackFileIsOne(t *testing.T) {
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{WorkingDir: ".", ConfigFiles: []types.ConfigFile{{Filename: "stack.yaml"}}, Environment: types.Mapping{"ORG": "isp", "MSP": "ISPMSP"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"orderer", "peer", "gidchain"} {
		s, ok := p.Services[name]
		if !ok || s.Image == "" || s.Deploy == nil || s.Deploy.RestartPolicy == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if got := p.Services["peer"].Environment["CORE_PEER_LOCALMSPID"]; got == nil || *got != "ISPMSP" {
		t.Errorf("the peer's MSP is %v", got)
	}
}
