// Package trace recovers the EID behind a leased address, in steps that four
// roles take and none can take alone:
//
//  1. an authority signs a [Warrant] that names addresses and times;
//  2. the ISP's [Resolver] answers it with a signed [Resolution], which holds
//     NIDs that the ISP cannot open;
//  3. each trustee checks both and makes an [Approval], which is sealed to the
//     warrant's holder;
//  4. the holder combines a threshold of approvals into a [Report].
//
// Each step checks the signatures of the steps before it and refuses when they
// do not stand. The package does no input or output but for [Serve] and
// [Client], the HTTP way to a resolver.
package trace
