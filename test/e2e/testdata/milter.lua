-- What an MTA may say to gidmilter, and what it says back. Run by miltertest with
-- -D socket=… for a relay mx.example whose resolver does not answer, with exempt-ports =
-- [10025] and sign-networks = ["2001:db8::/32"].

local function check(ok, what)
	if not ok then
		mt.echo("FAILED: " .. what) -- miltertest does not tell of errors
		error(what)
	end
end

local function open()
	local conn = mt.connect(socket, 40, 0.25)
	check(conn ~= nil, "there is no gidmilter")
	return conn
end

-- message sends one; m has what is not as it is everywhere.
local function message(conn, m)
	check(mt.mailfrom(conn, m.from or "<alice@example.org>") == nil, "mailfrom")
	for _, to in ipairs(m.to or { "<bob@example.net>" }) do
		check(mt.rcptto(conn, to) == nil, "rcptto")
	end
	for _, h in ipairs(m.header or { { "From", "alice@example.org" }, { "Subject", "hello" } }) do
		check(mt.header(conn, h[1], h[2]) == nil, "header")
	end
	for _, part in ipairs(m.body or { "Hello Bob,\r\n", "this is it.\r\n" }) do
		check(mt.bodystring(conn, part) == nil, "bodystring")
	end
	check(mt.eom(conn) == nil, "eom")
end

local function accepted(conn, name)
	check(mt.getreply(conn) == SMFIR_ACCEPT, name .. ": not accepted but " .. string.char(mt.getreply(conn)))
end

local function tagged(conn, name)
	accepted(conn, name)
	for _, field in ipairs({ "Bright-Source", "Bright-Hop", "Authentication-Results" }) do
		check(mt.eom_check(conn, MT_HDRINSERT, field), name .. ": no " .. field)
	end
	check(not mt.eom_check(conn, MT_BODYCHANGE), name .. ": the body is changed")
	check(not mt.eom_check(conn, MT_RCPTDELETE, "<bob@example.net>"), name .. ": a recipient is removed")
end

local function untouched(conn, name)
	accepted(conn, name)
	check(not mt.eom_check(conn, MT_HDRINSERT) and not mt.eom_check(conn, MT_HDRADD) and not mt.eom_check(conn, MT_HDRCHANGE), name .. ": its header is changed")
end

-- It asks for what it does, and for no more.
local conn = open()
check(mt.negotiate(conn, nil, nil, nil) == nil, "negotiate")
check(mt.test_action(conn, SMFIF_ADDHDRS) and mt.test_action(conn, SMFIF_CHGHDRS) and mt.test_action(conn, SMFIF_QUARANTINE), "actions that it needs")
check(not mt.test_action(conn, SMFIF_CHGBODY) and not mt.test_action(conn, SMFIF_ADDRCPT) and not mt.test_action(conn, SMFIF_DELRCPT), "actions that it does not need")
check(mt.conninfo(conn, "client.example", "2001:db8:1::7") == nil, "conninfo")
message(conn, {})
tagged(conn, "a message")
check(string.find(mt.getheader(conn, "Authentication-Results", 0), "mx.example; x-bright-source=temperror", 1, true), "results: " .. mt.getheader(conn, "Authentication-Results", 0))

-- Many messages of one connection, one of them given up.
for i = 1, 20 do
	if i == 7 then
		check(mt.mailfrom(conn, "<alice@example.org>") == nil, "mailfrom")
		check(mt.abort(conn) == nil, "abort")
	end
	message(conn, { body = { string.rep("x", i) .. "\r\n" } })
	tagged(conn, "message " .. i)
end

-- What is no message that anybody writes. (Miltertest itself takes no field of more than
-- 1,000 octets.)
local many = {}
for i = 1, 4000 do
	many[i] = { "X-" .. i, "v" }
end
local chain = { { "Bright-Source", "v=1; a=::" } }
for i = 1, 1000 do
	chain[i + 1] = { "Bright-Hop", "v=1; i=" .. i .. string.rep("; v=1", 100) }
end
local to = {}
for i = 1, 2000 do
	to[i] = "<box" .. i .. "@example.net>"
end
for name, m in pairs({
	["no header"] = { header = {} },
	["no body"] = { body = {} },
	["an empty sender"] = { from = "<>" },
	["a sender that is none"] = { from = "@@<<\127\r>" },
	["fields that are none"] = { header = { { "", "" }, { " ", "x" }, { "From", "" }, { "X\128", "\255\0" }, { "a:b", ":" } } },
	["folded fields"] = { header = { { "From", "a\n b\n\tc" }, { "Subject", "\n\n\n" } } },
	["bare line ends"] = { body = { "one\ntwo\rthree\n\r\r", "\n\n", "\n" } },
	["octets"] = { body = { "\1\2\127\255\254" .. string.rep("\200", 1000) } },
	["a long line"] = { body = { string.rep("x", 60000), string.rep("y", 60000) } },
	["many fields"] = { header = many },
	["many recipients"] = { to = to },
	["an absurd chain"] = { header = chain },
}) do
	message(conn, m)
	tagged(conn, name)
end

-- What is forged goes.
message(conn, { header = { { "Bright-Source", "v=1" }, { "From", "a@example.org" }, { "Bright-Hop", "v=1" }, { "Authentication-Results", "mx.example; x-bright-source=pass" } } })
tagged(conn, "forged fields")
for _, field in ipairs({ "Bright-Source", "Bright-Hop", "Authentication-Results" }) do
	check(mt.eom_check(conn, MT_HDRDELETE, field), "a forged " .. field .. " stays")
end

-- Too much is refused, and the connection goes on.
many = {}
for i = 1, 6000 do
	many[i] = { "X", "v" }
end
message(conn, { header = many })
check(mt.getreply(conn) == SMFIR_REPLYCODE, "too many fields are not refused")
message(conn, {})
tagged(conn, "after too many fields")
mt.disconnect(conn)

-- Clients of other kinds.
for name, ip in pairs({ ["without an address"] = "unspec", ["elsewhere"] = "2001:db9::1", ["of IPv4"] = "192.0.2.1" }) do
	conn = open()
	check(mt.conninfo(conn, "client.example", ip) == nil, "conninfo")
	message(conn, {})
	accepted(conn, "a client " .. name)
	check(mt.getheader(conn, "Authentication-Results", 0) == "mx.example; x-bright-source=none" or string.find(mt.getheader(conn, "Authentication-Results", 0), "mx.example; x-bright-source=none", 1, true), "a client " .. name)
	check(not mt.eom_check(conn, MT_HDRINSERT, "Bright-Hop"), "a client " .. name .. " gets a hop")
	mt.disconnect(conn)
end

-- Ports: an exempt one, others, and what an MTA should never say.
for told, exempt in pairs({ ["10025"] = true, ["25"] = false, ["-1"] = false, ["010025 "] = false, ["99999999999999999999"] = false, [""] = false, ["\0"] = false, ["10025\n"] = false }) do
	conn = open()
	check(mt.negotiate(conn, nil, nil, nil) == nil, "negotiate")
	check(mt.macro(conn, SMFIC_CONNECT, "{daemon_port}", told, "j", string.rep("m", 200)) == nil, "macro")
	check(mt.conninfo(conn, "client.example", "2001:db8:1::7") == nil, "conninfo")
	check(mt.macro(conn, SMFIC_MAIL, "{auth_authen}", "\0\255", "i", "") == nil, "macro")
	message(conn, {})
	if exempt then
		untouched(conn, "port " .. told)
	else
		tagged(conn, "port " .. told)
	end
	mt.disconnect(conn)
end

-- Connections that break, at any place, leave the others alone.
for i = 1, 5 do
	conn = open()
	check(mt.conninfo(conn, "client.example", "2001:db8:1::7") == nil, "conninfo")
	if i > 1 then
		mt.mailfrom(conn, "<alice@example.org>")
	end
	if i > 2 then
		mt.header(conn, "From", "x")
	end
	if i > 3 then
		mt.bodystring(conn, "half")
	end
	mt.disconnect(conn, false)
end
conn = open()
check(mt.conninfo(conn, "client.example", "2001:db8:1::7") == nil, "conninfo")
message(conn, {})
tagged(conn, "after broken connections")
mt.disconnect(conn)
mt.echo("all of it")
