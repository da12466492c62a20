// Package trace recovers the EID behind a leased address, in steps that four
// roles take and none can take alone:
//
//  1. an authority signs a [Warrant] that names addresses and times, and puts it on
//     the ledger ([Party.Submit]);
//  2. the ISP's [Resolver] answers it with a signed [Resolution], which holds
//     NIDs that the ISP cannot open;
//  3. each trustee checks both and makes an [Approval], which is sealed to the
//     warrant's holder ([Party.Approve]);
//  4. the holder combines a threshold of approvals into a [Report] ([Party.Recover]);
//  5. anybody re-checks the report, offline ([Verifier]).
//
// Each step checks the signatures of the steps before it and that their records stand
// on the ledger, refuses when they do not, and puts its own record there before its
// result leaves. What a step is refused for can be told by its error.
//
// The package does no input or output but for the ledger that it is given, and
// [Handler] and [Client], the HTTP way to a resolver.
package trace
