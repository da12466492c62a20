-- Format 1 of a database that gidservers share. It is what PostgreSQL, YugabyteDB and
-- CockroachDB have in common: no sequences, no advisory locks, no triggers.
--
-- id is the key, as package shared defines it; rev is a number that no other revision of any
-- row has, and a row is replaced only by who names the one that it has.

CREATE TABLE IF NOT EXISTS gid_meta (
	name text PRIMARY KEY,
	value bigint NOT NULL
);

-- By what servers find out that they have the same keys: a keyed hash, by epoch.
CREATE TABLE IF NOT EXISTS gid_keyed (
	epoch bigint PRIMARY KEY,
	tag bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS gid_servers (
	id bigint PRIMARY KEY,
	name text NOT NULL UNIQUE,
	starts bigint NOT NULL, -- how often it was started
	first bigint NOT NULL, -- subscriber numbers that it gives: from first
	upto bigint NOT NULL -- and below upto
);

-- Lookup key of an EID to the subscriber's number.
CREATE TABLE IF NOT EXISTS gid_keys (
	id bytea PRIMARY KEY,
	rev bigint NOT NULL,
	value bytea NOT NULL
);

-- Subscriber's number to when it was registered, and its NID.
CREATE TABLE IF NOT EXISTS gid_subscribers (
	id bytea PRIMARY KEY,
	rev bigint NOT NULL,
	value bytea NOT NULL
);

-- The newest lease of each address, and of the first address of each delegated prefix. The
-- columns beside value tell what of it is searched for; times are seconds since 1970.
CREATE TABLE IF NOT EXISTS gid_leases (
	id bytea PRIMARY KEY,
	rev bigint NOT NULL,
	value bytea NOT NULL,
	epoch bigint NOT NULL,
	state bigint NOT NULL,
	starts bigint NOT NULL,
	ends bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS gid_leases_epoch ON gid_leases (epoch, id);

-- Leases that ended and that another followed: address, and when it began.
CREATE TABLE IF NOT EXISTS gid_history (
	id bytea PRIMARY KEY,
	rev bigint NOT NULL,
	value bytea NOT NULL,
	epoch bigint NOT NULL,
	state bigint NOT NULL,
	starts bigint NOT NULL,
	ends bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS gid_history_epoch ON gid_history (epoch, id);

-- Which addresses are filed under an identity association, and under a subscriber.
CREATE TABLE IF NOT EXISTS gid_clients (
	id bytea PRIMARY KEY,
	rev bigint NOT NULL,
	value bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS gid_lists (
	id bytea PRIMARY KEY,
	rev bigint NOT NULL,
	value bytea NOT NULL
);

-- What a subscriber has used of a prefix, by server.
CREATE TABLE IF NOT EXISTS gid_accounts (
	id bytea PRIMARY KEY,
	rev bigint NOT NULL,
	value bytea NOT NULL
);

-- Lengths of the delegated prefixes that were ever filed.
CREATE TABLE IF NOT EXISTS gid_lengths (
	bits bigint PRIMARY KEY
);

-- What each server has changed of late: the addresses, 16 bytes each.
CREATE TABLE IF NOT EXISTS gid_changes (
	server bigint NOT NULL,
	seq bigint NOT NULL,
	prev bigint NOT NULL,
	at bigint NOT NULL,
	addrs bytea NOT NULL,
	PRIMARY KEY (server, seq)
);

INSERT INTO gid_meta (name, value) VALUES ('format', 1), ('numbers', 0) ON CONFLICT (name) DO NOTHING;
