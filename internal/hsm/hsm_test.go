package hsm

import (
	"strings"
	"testing"
)

func TestURIs(t *testing.T) {
	k, err := Parse("pkcs11:token=My%20Court;object=judge;id=%01%02;type=private?module-path=/usr/lib/m.so&pin-source=file:/etc/pin")
	if err != nil || k.Token != "My Court" || k.Object != "judge" || string(k.ID) != "\x01\x02" || k.Module != "/usr/lib/m.so" || k.PINSource != "/etc/pin" {
		t.Errorf("%+v, %v", k, err)
	}
	for uri, want := range map[string]string{
		"file:/x":                                               "begins with pkcs11:",
		"pkcs11:":                                               "no attribute",
		"pkcs11:object=x?module-path=/m":                        "token's label",
		"pkcs11:token=a;serial=b;object=x":                      "token's label",
		"pkcs11:token=a?module-path=/m":                         "key's label",
		"pkcs11:token=a;object=x":                               "module-path",
		"pkcs11:token=a;object=x?module-path=m.so":              "absolute path",
		"pkcs11:token=a;token=b;object=x":                       "stands twice",
		"pkcs11:token=a;object=x?module-path=/m&pin-value=1234": "has the PIN in it",
		"pkcs11:token=a;object=x;colour=red":                    "colour is not known",
		"pkcs11:token=%zz;object=x":                             "no attribute",
		"pkcs11:token=a;object=x?module-path=/m&pin-source=pin": "pin-source",
	} {
		if _, err := Parse(uri); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "1234") {
			t.Errorf("the error tells the PIN: %v", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("pkcs11:token=a;object=x?module-path=/m&pin-source=file:/etc/pin")
	f.Fuzz(func(t *testing.T, s string) { Parse(s) })
}
