DELETE FROM gid_changes WHERE server = $1 AND at < $2;

DELETE FROM gid_clients AS t USING unnest($1::bytea[], $2::bigint[]) AS n(id, rev) WHERE t.id = n.id AND t.rev = n.rev;

DELETE FROM gid_history WHERE id = ANY($1);

DELETE FROM gid_keyed WHERE epoch < $1;

DELETE FROM gid_leases AS t USING unnest($1::bytea[], $2::bigint[]) AS n(id, starts) WHERE t.id = n.id AND t.starts = n.starts;

DELETE FROM gid_lists AS t USING unnest($1::bytea[], $2::bigint[]) AS n(id, rev) WHERE t.id = n.id AND t.rev = n.rev;

INSERT INTO gid_accounts (id, rev, value) SELECT id, rev, value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS n(id, rev, value) ON CONFLICT (id) DO NOTHING;

INSERT INTO gid_accounts (id, rev, value) SELECT id, rev, value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS n(id, rev, value) ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, value = excluded.value;

INSERT INTO gid_changes (server, seq, prev, at, addrs) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (server, seq) DO NOTHING;

INSERT INTO gid_clients (id, rev, value) SELECT id, rev, value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS n(id, rev, value) ON CONFLICT (id) DO NOTHING;

INSERT INTO gid_clients (id, rev, value) SELECT id, rev, value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS n(id, rev, value) ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, value = excluded.value;

INSERT INTO gid_history (id, rev, value, epoch, state, starts, ends) SELECT id, rev, value, epoch, state, starts, ends FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) AS n(id, rev, value, epoch, state, starts, ends) ON CONFLICT (id) DO NOTHING;

INSERT INTO gid_history (id, rev, value, epoch, state, starts, ends) SELECT id, rev, value, epoch, state, starts, ends FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) AS n(id, rev, value, epoch, state, starts, ends) ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, value = excluded.value, epoch = excluded.epoch, state = excluded.state, starts = excluded.starts, ends = excluded.ends;

INSERT INTO gid_keyed (epoch, tag) VALUES ($1, $2) ON CONFLICT (epoch) DO NOTHING;

INSERT INTO gid_keys (id, rev, value) SELECT id, rev, value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS n(id, rev, value) ON CONFLICT (id) DO NOTHING;

INSERT INTO gid_keys (id, rev, value) SELECT id, rev, value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS n(id, rev, value) ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, value = excluded.value;

INSERT INTO gid_leases (id, rev, value, epoch, state, starts, ends) SELECT id, rev, value, epoch, state, starts, ends FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) AS n(id, rev, value, epoch, state, starts, ends) ON CONFLICT (id) DO NOTHING;

INSERT INTO gid_leases (id, rev, value, epoch, state, starts, ends) SELECT id, rev, value, epoch, state, starts, ends FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) AS n(id, rev, value, epoch, state, starts, ends) ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, value = excluded.value, epoch = excluded.epoch, state = excluded.state, starts = excluded.starts, ends = excluded.ends;

INSERT INTO gid_lengths (bits) VALUES ($1) ON CONFLICT (bits) DO NOTHING;

INSERT INTO gid_lists (id, rev, value) SELECT id, rev, value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS n(id, rev, value) ON CONFLICT (id) DO NOTHING;

INSERT INTO gid_lists (id, rev, value) SELECT id, rev, value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS n(id, rev, value) ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, value = excluded.value;

INSERT INTO gid_servers (id, name, starts, first, upto) VALUES ($1, $2, 1, 0, 0);

INSERT INTO gid_subscribers (id, rev, value) SELECT id, rev, value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS n(id, rev, value) ON CONFLICT (id) DO NOTHING;

INSERT INTO gid_subscribers (id, rev, value) SELECT id, rev, value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[]) AS n(id, rev, value) ON CONFLICT (id) DO UPDATE SET rev = excluded.rev, value = excluded.value;

SELECT bits FROM gid_lengths ORDER BY bits DESC;

SELECT clock_timestamp();

SELECT current_setting($1, true);

SELECT epoch, tag FROM gid_keyed ORDER BY epoch DESC LIMIT 1;

SELECT id FROM ( (SELECT id FROM gid_leases WHERE id >= $1 AND id <= $2 AND state <> $3 AND starts <= $4 AND ends > $5 ORDER BY id LIMIT $6) UNION (SELECT DISTINCT substring(id from 1 for 16) AS id FROM gid_history WHERE id >= $1 AND id <= $7 AND state <> $3 AND starts <= $4 AND ends > $5 ORDER BY id LIMIT $6) ) AS found ORDER BY id LIMIT $6;

SELECT id FROM gid_leases WHERE id = ANY($1);

SELECT id FROM gid_servers ORDER BY id;

SELECT id FROM gid_subscribers WHERE id >= $1 AND id < $2 ORDER BY id DESC LIMIT 1;

SELECT id, rev, value FROM gid_accounts WHERE id = ANY($1);

SELECT id, rev, value FROM gid_clients WHERE id = ANY($1);

SELECT id, rev, value FROM gid_history WHERE id = ANY($1);

SELECT id, rev, value FROM gid_keys WHERE id = ANY($1);

SELECT id, rev, value FROM gid_leases WHERE id = ANY($1);

SELECT id, rev, value FROM gid_leases WHERE id > $1 ORDER BY id LIMIT $2;

SELECT id, rev, value FROM gid_lists WHERE id = ANY($1);

SELECT id, rev, value FROM gid_subscribers WHERE id = ANY($1);

SELECT id, starts, first, upto FROM gid_servers WHERE name = $1 FOR UPDATE;

SELECT id, value FROM gid_history WHERE epoch < $1 AND (epoch > $2 OR epoch = $2 AND id > $3) ORDER BY epoch, id LIMIT $4;

SELECT id, value FROM gid_history WHERE id >= $1 AND id <= $2 ORDER BY id DESC;

SELECT id, value FROM gid_leases WHERE epoch < $1 AND (epoch > $2 OR epoch = $2 AND id > $3) ORDER BY epoch, id LIMIT $4;

SELECT id, value FROM gid_leases WHERE id = $1;

SELECT seq FROM gid_changes WHERE server = $1 ORDER BY seq DESC LIMIT 1;

SELECT seq, prev, addrs FROM gid_changes WHERE server = $1 AND seq > $2 ORDER BY seq LIMIT $3;

SELECT value FROM gid_meta WHERE name = 'format';

SELECT value FROM gid_meta WHERE name = 'numbers';

SELECT value FROM gid_subscribers WHERE id = $1;

SET enable_seqscan = off;

UPDATE gid_accounts AS t SET rev = n.rev, value = n.value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[]) AS n(id, rev, value, was) WHERE t.id = n.id AND t.rev = n.was;

UPDATE gid_clients AS t SET rev = n.rev, value = n.value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[]) AS n(id, rev, value, was) WHERE t.id = n.id AND t.rev = n.was;

UPDATE gid_history AS t SET rev = n.rev, value = n.value, epoch = n.epoch, state = n.state, starts = n.starts, ends = n.ends FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]) AS n(id, rev, value, epoch, state, starts, ends, was) WHERE t.id = n.id AND t.rev = n.was;

UPDATE gid_keys AS t SET rev = n.rev, value = n.value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[]) AS n(id, rev, value, was) WHERE t.id = n.id AND t.rev = n.was;

UPDATE gid_leases AS t SET rev = n.rev, value = n.value, epoch = n.epoch, state = n.state, starts = n.starts, ends = n.ends FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]) AS n(id, rev, value, epoch, state, starts, ends, was) WHERE t.id = n.id AND t.rev = n.was;

UPDATE gid_lists AS t SET rev = n.rev, value = n.value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[]) AS n(id, rev, value, was) WHERE t.id = n.id AND t.rev = n.was;

UPDATE gid_meta SET value = value + $1 WHERE name = 'numbers' RETURNING value;

UPDATE gid_servers SET first = $2, upto = $3 WHERE id = $1;

UPDATE gid_servers SET starts = starts + 1 WHERE id = $1;

UPDATE gid_subscribers AS t SET rev = n.rev, value = n.value FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[]) AS n(id, rev, value, was) WHERE t.id = n.id AND t.rev = n.was;

begin;

commit;

rollback;
