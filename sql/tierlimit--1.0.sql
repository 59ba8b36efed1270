/* sql/tierlimit--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION tierlimit" to load this file. \quit

-- A function whose name begins with an underscore is for the extension itself, or for
-- whoever repairs it: the README does not name it, and the next version may drop it.

-- Whoever owns the schema could put objects of their own between ours.
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner
			WHERE n.nspname = 'tierlimit' AND (o.rolsuper OR o.rolname = current_user)) THEN
		RAISE insufficient_privilege USING
			MESSAGE = 'schema "tierlimit" belongs to somebody else',
			HINT = 'Drop or rename it first: CREATE EXTENSION makes a schema of its own.';
	END IF;
END
$$;

--
-- Configuration
--

CREATE TABLE tierlimit.tier (
	name text PRIMARY KEY
		CHECK (name COLLATE "C" ~ '^[\x20-\x7e]{1,63}$'),
	description text
);

COMMENT ON TABLE tierlimit.tier IS 'Plans that keys are on';
COMMENT ON COLUMN tierlimit.tier.name IS '1 to 63 printable ASCII characters';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.tier', '');

-- This table stands before tier_limit, which refers to it.
CREATE TABLE tierlimit.error_code (
	code integer PRIMARY KEY,
	http_status integer NOT NULL CHECK (http_status BETWEEN 100 AND 599),
	name text NOT NULL,
	message text NOT NULL,
	resolution text,
	changed boolean NOT NULL DEFAULT false
);

COMMENT ON TABLE tierlimit.error_code IS 'What a refused caller of the API is told; rows may be added';
COMMENT ON COLUMN tierlimit.error_code.changed IS 'a row that the extension came with was changed; so pg_dump carries it';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.error_code', 'WHERE changed OR code NOT BETWEEN 1001 AND 1011');

INSERT INTO tierlimit.error_code (code, http_status, name, message, resolution) VALUES
	(1001, 401, 'API_KEY_INVALID', 'This API Key is invalid.', 'Check that the API Key was copied whole, and that it was not replaced by a new one.'),
	(1002, 401, 'API_KEY_MISSING', 'API key missing.', 'Send your API Key with each request.'),
	(1003, 402, 'API_KEY_PLAN_REQUIRES_PAYEMENT', 'Your API Key must be activated.', 'Activate your subscription plan by paying for it.'),
	(1004, 402, 'API_KEY_PLAN_PAYMENT_EXPIRED', 'Your API Key''s subscription plan has expired.', 'Renew your subscription plan.'),
	(1005, 403, 'API_KEY_REQUIRED', 'An API Key is required for this call.', 'Send an API Key with this request; sign up for one if you have none.'),
	(1006, 403, 'API_KEY_PLAN_NOT_AUTHORIZED', 'Your API Key subscription plan doesn''t support this endpoint.', 'Upgrade to a subscription plan that includes this endpoint.'),
	(1007, 403, 'API_KEY_DISABLED', 'This API Key has been disabled.', 'Contact support.'),
	(1008, 429, 'API_KEY_PLAN_MINUTE_RATE_LIMIT_REACHED', 'You''ve exceeded your API Key''s HTTP request rate limit.', 'Wait as long as Retry-After says, or upgrade your subscription plan.'),
	(1009, 429, 'API_KEY_PLAN_DAILY_RATE_LIMIT_REACHED', 'You''ve exceeded your API Key''s daily rate limit.', 'Wait as long as Retry-After says, or upgrade your subscription plan.'),
	(1010, 429, 'API_KEY_PLAN_MONTHLY_RATE_LIMIT_REACHED', 'You''ve exceeded your API Key''s monthly rate limit.', 'Wait as long as Retry-After says, or upgrade your subscription plan.'),
	(1011, 429, 'IP_RATE_LIMIT_REACHED', 'You''ve hit an IP rate limit.', 'Wait as long as Retry-After says.');

-- A restored database has the rows that the extension comes with already: what a
-- dump says of one, which had been changed, changes it again.
CREATE FUNCTION tierlimit._keep_error_code() RETURNS trigger
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF TG_OP = 'UPDATE' THEN
		NEW.changed := OLD.changed OR OLD.code BETWEEN 1001 AND 1011;
		RETURN NEW;
	END IF;
	UPDATE tierlimit.error_code SET http_status = NEW.http_status, name = NEW.name,
		message = NEW.message, resolution = NEW.resolution
	WHERE code = NEW.code;
	RETURN CASE WHEN NOT FOUND THEN NEW END;
END
$$;

COMMENT ON FUNCTION tierlimit._keep_error_code() IS 'Trigger: changes of the rows that the extension came with survive pg_dump';

CREATE TRIGGER kept BEFORE UPDATE ON tierlimit.error_code
	FOR EACH ROW EXECUTE FUNCTION tierlimit._keep_error_code();
CREATE TRIGGER restored BEFORE INSERT ON tierlimit.error_code
	FOR EACH ROW WHEN (NEW.changed) EXECUTE FUNCTION tierlimit._keep_error_code();

CREATE TABLE tierlimit.tier_limit (
	tier text NOT NULL REFERENCES tierlimit.tier ON UPDATE CASCADE ON DELETE CASCADE,
	name text NOT NULL
		CHECK (name COLLATE "C" ~ '^[\x20-\x7e]{1,63}$'),
	period interval NOT NULL,
	kind text NOT NULL DEFAULT 'sliding' CHECK (kind IN ('sliding', 'calendar')),
	-- whole, see _tiers_changed(): a bigint would have fractions rounded
	max numeric NOT NULL CHECK (max >= 0),
	unit text NOT NULL DEFAULT 'requests' CHECK (unit IN ('requests', 'credits')),
	enforce boolean NOT NULL DEFAULT true,
	error_code integer REFERENCES tierlimit.error_code ON UPDATE CASCADE,
	PRIMARY KEY (tier, name),
	UNIQUE (tier, period, kind, unit),
	CONSTRAINT tier_limit_sliding_period_check CHECK (
		kind <> 'sliding' OR
		(extract(year FROM period) = 0 AND extract(month FROM period) = 0 AND
		 period BETWEEN interval '1 second' AND interval '366 days')),
	CONSTRAINT tier_limit_calendar_period_check CHECK (
		kind <> 'calendar' OR
		(extract(year FROM period) * 12 + extract(month FROM period),
		 extract(day FROM period),
		 extract(hour FROM period) * 3600 + extract(minute FROM period) * 60 + extract(second FROM period))
		IN ((0, 0, 60), (0, 0, 3600), (0, 1, 0), (0, 7, 0), (1, 0, 0), (3, 0, 0), (12, 0, 0)))
);

COMMENT ON TABLE tierlimit.tier_limit IS 'Limits of tiers: one row a window';
COMMENT ON COLUMN tierlimit.tier_limit.name IS 'the limit''s name in answers and headers';
COMMENT ON COLUMN tierlimit.tier_limit.period IS 'sliding: 1 second to 366 days, without months; calendar: 1 minute, hour, day, week, month, 3 months or 1 year';
COMMENT ON COLUMN tierlimit.tier_limit.kind IS 'sliding: the last period, rolling; calendar: the running period since the key''s billing anchor';
COMMENT ON COLUMN tierlimit.tier_limit.max IS 'how much fits; 0 admits nothing';
COMMENT ON COLUMN tierlimit.tier_limit.unit IS 'requests: a call counts 1; credits: a call counts its cost';
COMMENT ON COLUMN tierlimit.tier_limit.enforce IS 'false: a shadow limit, which counts but never denies';
COMMENT ON COLUMN tierlimit.tier_limit.error_code IS 'of a denial; NULL: by period, up to 1 hour 1008, up to 1 day 1009, longer 1010';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.tier_limit', '');

CREATE TABLE tierlimit.api_key (
	name text PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 255),
	key_hash bytea UNIQUE CHECK (octet_length(key_hash) = 32),
	key_prefix text,
	tier text NOT NULL REFERENCES tierlimit.tier ON UPDATE CASCADE,
	status text NOT NULL DEFAULT 'active'
		CHECK (status IN ('active', 'payment_required', 'payment_expired', 'disabled')),
	account text CHECK (octet_length(account) BETWEEN 1 AND 255),
	billing_anchor timestamptz CHECK (isfinite(billing_anchor)),
	billing_timezone text NOT NULL DEFAULT 'UTC'
		CHECK (octet_length(billing_timezone) <= 255),
	expires_at timestamptz,
	description text,
	created_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE tierlimit.api_key IS 'Registered keys';
COMMENT ON COLUMN tierlimit.api_key.name IS 'public name, 1 to 255 bytes, used in the log and in reports';
COMMENT ON COLUMN tierlimit.api_key.key_hash IS 'SHA-256 of the secret, which is stored nowhere';
COMMENT ON COLUMN tierlimit.api_key.key_prefix IS 'first characters of the secret, to recognise it by';
COMMENT ON COLUMN tierlimit.api_key.status IS 'active, payment_required (1003), payment_expired (1004) or disabled (1007)';
COMMENT ON COLUMN tierlimit.api_key.account IS 'keys of one account are counted together, under this name; NULL: on its own';
COMMENT ON COLUMN tierlimit.api_key.billing_anchor IS 'when calendar periods begin; NULL: 2001-01-01 00:00 in its time zone';
COMMENT ON COLUMN tierlimit.api_key.expires_at IS 'from then on refused with 1004';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.api_key', '');
CREATE INDEX ON tierlimit.api_key (tier);

CREATE TABLE tierlimit.endpoint (
	endpoint text PRIMARY KEY,
	credits numeric NOT NULL DEFAULT 1 CHECK (credits >= 0)
);

COMMENT ON TABLE tierlimit.endpoint IS 'What a call costs when the caller names no cost';
COMMENT ON COLUMN tierlimit.endpoint.endpoint IS 'a trailing * matches any rest; the longest match wins';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.endpoint', '');

CREATE TABLE tierlimit.tier_endpoint (
	tier text NOT NULL REFERENCES tierlimit.tier ON UPDATE CASCADE ON DELETE CASCADE,
	endpoint text NOT NULL,
	PRIMARY KEY (tier, endpoint)
);

COMMENT ON TABLE tierlimit.tier_endpoint IS 'Endpoints that a tier includes; a tier without rows includes all';
COMMENT ON COLUMN tierlimit.tier_endpoint.endpoint IS 'a trailing * matches any rest';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.tier_endpoint', '');

--
-- Telling sessions of changes
--

CREATE FUNCTION tierlimit._tiers_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'tierlimit_tiers_changed_1_0' LANGUAGE C;

COMMENT ON FUNCTION tierlimit._tiers_changed() IS 'Trigger: makes all sessions read the tables again at commit; numbers are whole, a tier''s limits not too many, and patterns match something';

CREATE FUNCTION tierlimit._key_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'tierlimit_key_changed_1_0' LANGUAGE C;

COMMENT ON FUNCTION tierlimit._key_changed() IS 'Trigger: makes the next call of a key read its row again; a key keeps its name, and a time zone exists';

CREATE FUNCTION tierlimit._key_deleted() RETURNS trigger
	AS 'MODULE_PATHNAME', 'tierlimit_key_deleted_1_0' LANGUAGE C;

COMMENT ON FUNCTION tierlimit._key_deleted() IS 'Trigger: a key that is deleted and made anew starts afresh';

CREATE CONSTRAINT TRIGGER deleted AFTER DELETE ON tierlimit.api_key
	DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION tierlimit._key_deleted();
CREATE TRIGGER truncated BEFORE TRUNCATE ON tierlimit.api_key
	FOR EACH STATEMENT EXECUTE FUNCTION tierlimit._key_deleted();

-- Row by row, since logical replication fires no statement triggers but those of
-- TRUNCATE; and ALWAYS, so that it does fire these.  Before a row changes, so
-- that nobody who looks at it in the middle of the statement keeps what may yet
-- fail; and after it, when its name is final.
DO $$
DECLARE
	tab text;
	fun text;
	trg text;
BEGIN
	FOR tab, fun IN VALUES ('tier', '_tiers_changed'), ('tier_limit', '_tiers_changed'),
			('error_code', '_tiers_changed'), ('endpoint', '_tiers_changed'),
			('tier_endpoint', '_tiers_changed'), ('api_key', '_key_changed') LOOP
		EXECUTE format('CREATE TRIGGER changing BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.%I
			FOR EACH ROW EXECUTE FUNCTION tierlimit.%I()', tab, fun);
		EXECUTE format('CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON tierlimit.%I
			FOR EACH ROW EXECUTE FUNCTION tierlimit.%I()', tab, fun);
		-- (that api_key was truncated is told by its new file)
		IF tab <> 'api_key' THEN
			EXECUTE format('CREATE TRIGGER truncated AFTER TRUNCATE ON tierlimit.%I
				FOR EACH STATEMENT EXECUTE FUNCTION tierlimit.%I()', tab, fun);
		END IF;
		FOR trg IN SELECT tgname FROM pg_catalog.pg_trigger
				WHERE tgrelid = format('tierlimit.%I', tab)::regclass AND NOT tgisinternal LOOP
			EXECUTE format('ALTER TABLE tierlimit.%I ENABLE ALWAYS TRIGGER %I', tab, trg);
		END LOOP;
	END LOOP;
END
$$;

--
-- The request log
--

CREATE TABLE tierlimit.request_log (
	at timestamptz NOT NULL,
	key text,
	account text,
	tier text,
	endpoint text,
	ip inet,
	error_code integer NOT NULL,
	requests integer NOT NULL,
	credits bigint NOT NULL,
	shadow_code integer,
	request_id text
) PARTITION BY RANGE (at);

COMMENT ON TABLE tierlimit.request_log IS 'Decisions: what windows are rebuilt from, and bills made';
COMMENT ON COLUMN tierlimit.request_log.at IS 'when it was decided; of calls that share a row, the youngest';
COMMENT ON COLUMN tierlimit.request_log.key IS 'NULL: there was none, or none that is known';
COMMENT ON COLUMN tierlimit.request_log.account IS 'under whose name it was counted; NULL: the key''s own';
COMMENT ON COLUMN tierlimit.request_log.endpoint IS 'a path is in normal form';
COMMENT ON COLUMN tierlimit.request_log.ip IS 'of the caller; NULL: not known, or of several denied calls that share the row';
COMMENT ON COLUMN tierlimit.request_log.error_code IS '0: admitted, or given back';
COMMENT ON COLUMN tierlimit.request_log.requests IS 'how many calls; negative: given back';
COMMENT ON COLUMN tierlimit.request_log.credits IS 'what they cost, or would have cost';
COMMENT ON COLUMN tierlimit.request_log.shadow_code IS 'what a shadow limit would have answered; 0: all that was counted before is forgotten, by a reset or since the key was deleted';

-- A publication FOR ALL TABLES refuses to change rows of a table without a replica
-- identity.
ALTER TABLE tierlimit.request_log REPLICA IDENTITY FULL;

CREATE TABLE tierlimit.request_log_default PARTITION OF tierlimit.request_log DEFAULT;

COMMENT ON TABLE tierlimit.request_log_default IS 'Decisions of days that have no partition of their own';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.request_log_default', '');
ALTER TABLE tierlimit.request_log_default REPLICA IDENTITY FULL;

CREATE TABLE tierlimit.usage_hourly (
	hour timestamptz NOT NULL,
	key text,
	tier text,
	endpoint text,
	requests bigint NOT NULL,
	credits bigint NOT NULL,
	denied bigint NOT NULL,
	CONSTRAINT usage_hourly_key UNIQUE NULLS NOT DISTINCT (key, hour, tier, endpoint)
);

COMMENT ON TABLE tierlimit.usage_hourly IS 'Sums of the request log by hours that are over';
COMMENT ON COLUMN tierlimit.usage_hourly.endpoint IS 'the pattern that matched; NULL: none did';
COMMENT ON COLUMN tierlimit.usage_hourly.requests IS 'admitted calls, less those given back';
COMMENT ON COLUMN tierlimit.usage_hourly.credits IS 'of the admitted calls';
COMMENT ON COLUMN tierlimit.usage_hourly.denied IS 'denied calls';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.usage_hourly', '');
ALTER TABLE tierlimit.usage_hourly REPLICA IDENTITY FULL;

-- Keys with many calls are rebuilt from these rather than from single rows,
-- but for minutes in which something was given back.
CREATE TABLE tierlimit.usage_minute (
	subject text NOT NULL,
	is_account boolean NOT NULL,
	minute timestamptz NOT NULL,
	last_at timestamptz NOT NULL,
	requests bigint NOT NULL,
	credits bigint NOT NULL,
	PRIMARY KEY (subject, is_account, minute)
);

COMMENT ON TABLE tierlimit.usage_minute IS 'Sums of the request log by minutes with many rows, of hours that are over: what windows are rebuilt from';
COMMENT ON COLUMN tierlimit.usage_minute.subject IS 'key or account that was counted';
COMMENT ON COLUMN tierlimit.usage_minute.last_at IS 'time of its newest row';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.usage_minute', '');
CREATE INDEX ON tierlimit.usage_minute USING brin (minute);

CREATE TABLE tierlimit.log_state (
	summed_until timestamptz NOT NULL,
	dropped_at timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE tierlimit.log_state IS 'One row: how far the maintenance of the request log has come';
COMMENT ON COLUMN tierlimit.log_state.summed_until IS 'what was decided before is in usage_hourly';
COMMENT ON COLUMN tierlimit.log_state.dropped_at IS 'when old rows were last dropped';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.log_state', '');
CREATE UNIQUE INDEX ON tierlimit.log_state ((true));
ALTER TABLE tierlimit.log_state REPLICA IDENTITY FULL;

--
-- Maintenance of the request log
--

-- Names are compared by their bytes, which is fast and knows no language.
-- Each partition has its own indexes, and the log itself none: pg_dump does not
-- know those of an extension's table, and would make the partitions' twice.
CREATE FUNCTION tierlimit._index_log_partition(partition regclass) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	EXECUTE format('CREATE INDEX ON %s USING brin (at) WITH (pages_per_range = 32)', partition);
	EXECUTE format('CREATE INDEX ON %s (key COLLATE "C", at) WHERE error_code = 0 AND account IS NULL', partition);
	EXECUTE format('CREATE INDEX ON %s (account COLLATE "C", at) WHERE error_code = 0 AND account IS NOT NULL', partition);
	EXECUTE format('CREATE INDEX ON %s (ip, at) WHERE error_code = 0 AND ip IS NOT NULL', partition);
	EXECUTE format('CREATE INDEX ON %s (at) WHERE error_code = 0 AND key IS NULL AND ip IS NULL', partition);
	EXECUTE format('CREATE INDEX ON %s (key COLLATE "C", request_id COLLATE "C") WHERE request_id IS NOT NULL', partition);
END
$$;

COMMENT ON FUNCTION tierlimit._index_log_partition(regclass) IS 'Make the indexes of a partition of the request log';

SELECT tierlimit._index_log_partition('tierlimit.request_log_default');

-- The new partition is made apart and then attached, which locks the log
-- against nobody; only the default partition, which is mostly empty, is locked
-- while rows that belong to the new one are moved there.  Whoever calls this, it
-- belongs to the owner of the log.
CREATE FUNCTION tierlimit._add_log_partition(day date) RETURNS boolean
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	partition text := 'request_log_' || to_char(day, 'YYYYMMDD');
	since timestamptz := day::timestamp AT TIME ZONE 'UTC';
	until timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
	IF to_regclass('tierlimit.' || partition) IS NOT NULL THEN
		RETURN false;
	END IF;
	EXECUTE format('CREATE TABLE tierlimit.%I (LIKE tierlimit.request_log INCLUDING COMMENTS,
		CONSTRAINT day CHECK (at >= %L AND at < %L))', partition, since, until);
	EXECUTE format('ALTER TABLE tierlimit.%I REPLICA IDENTITY FULL', partition);
	EXECUTE format('WITH moved AS (DELETE FROM tierlimit.request_log_default
		WHERE at >= %L AND at < %L RETURNING *) INSERT INTO tierlimit.%I SELECT * FROM moved',
		since, until, partition);
	PERFORM tierlimit._index_log_partition(format('tierlimit.%I', partition)::regclass);
	EXECUTE format('ALTER TABLE tierlimit.request_log ATTACH PARTITION tierlimit.%I
		FOR VALUES FROM (%L) TO (%L)', partition, since, until);
	EXECUTE format('ALTER TABLE tierlimit.%I DROP CONSTRAINT day', partition);
	RETURN true;
END
$$;

COMMENT ON FUNCTION tierlimit._add_log_partition(date) IS 'Make the partition of a day of the request log; false: it is there';

-- One at a time, since each keeps the default partition locked until its
-- transaction ends.  A transaction that has read the log is in the way: then
-- another time.  Until then, rows go to the default partition.
CREATE FUNCTION tierlimit._add_log_partitions() RETURNS boolean
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
BEGIN
	FOR i IN 0 .. 2 LOOP
		IF tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date + i) THEN
			RETURN true;
		END IF;
	END LOOP;
	RETURN false;
END
$$;

COMMENT ON FUNCTION tierlimit._add_log_partitions() IS 'Make the first missing partition of today and the next days; false: none is';

-- Once a day, piece by piece, each in a transaction of its own.  To drop a
-- partition locks the whole log, so nothing else is done meanwhile; and whoever
-- reads the log is in the way, for a while: then another time.
--
-- What a window still counts is kept, whatever the retention (a year has 360 days
-- in comparisons of intervals, hence some more), and what is not summed up yet.
CREATE FUNCTION tierlimit._drop_old_log(retention interval) RETURNS boolean
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	longest interval := coalesce(max(period), '0') * 1.03 + '1 day' FROM tierlimit.tier_limit;
	before timestamptz := least(now() - greatest(retention, longest), summed_until)
		FROM tierlimit.log_state WHERE dropped_at <= now() - interval '1 day';
	oldest regclass := i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'tierlimit.request_log'::regclass AND c.relname ~ '^request_log_[0-9]{8}$'
			AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC' <= before
		ORDER BY c.relname LIMIT 1;
BEGIN
	IF before IS NULL THEN
		RETURN false;
	END IF;
	IF oldest IS NOT NULL THEN
		EXECUTE format('DROP TABLE %s', oldest);
		RETURN true;
	END IF;
	DELETE FROM tierlimit.request_log_default WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM tierlimit.request_log_default WHERE at < before LIMIT 10000));
	IF FOUND THEN
		RETURN true;
	END IF;
	DELETE FROM tierlimit.usage_minute WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM tierlimit.usage_minute WHERE minute < before LIMIT 10000));
	IF FOUND THEN
		RETURN true;
	END IF;
	UPDATE tierlimit.log_state SET dropped_at = now();
	RETURN false;
END
$$;

COMMENT ON FUNCTION tierlimit._drop_old_log(interval) IS 'Drop a piece of what was logged before the retention; false: nothing is left of it';

-- A cost can be as large as a number; sums of them stay there.
CREATE FUNCTION tierlimit._saturated(value numeric) RETURNS bigint
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN greatest(least(value, 9223372036854775807), -9223372036854775808)::bigint;

COMMENT ON FUNCTION tierlimit._saturated(numeric) IS 'The nearest bigint';

-- Sums are kept for good, so callers whom nobody knows must not choose what is in them.
-- In place of the endpoint they have the pattern that it matches.
CREATE FUNCTION tierlimit._endpoint_pattern(endpoint text) RETURNS text
	AS 'MODULE_PATHNAME', 'tierlimit_endpoint_pattern_1_0'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit._endpoint_pattern(text) IS 'The longest pattern that matches an endpoint; NULL: none does';

-- The sums leave out a key that was refused because nobody knows it.
CREATE FUNCTION tierlimit._summed_key(key text, tier text, error_code integer) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE WHEN error_code = 0 OR tier IS NOT NULL THEN key END;

COMMENT ON FUNCTION tierlimit._summed_key(text, text, integer) IS 'The key that a row of the log is summed up under; NULL: one that was refused as unknown';

-- Rows of the log, and rows that come late, are added to the sums of their hours by the
-- same command.  The caller says, in SQL, where it is to read them.  So those of the
-- log, which can be millions, are summed up as they are read, and kept nowhere.
CREATE FUNCTION tierlimit._hourly_upsert(rows text) RETURNS text
	LANGUAGE sql STABLE
	RETURN format($$
		INSERT INTO tierlimit.usage_hourly AS u (hour, key, tier, endpoint, requests, credits, denied)
		SELECT date_trunc('hour', at, 'UTC'), tierlimit._summed_key(key, tier, error_code),
			tier, tierlimit._endpoint_pattern(endpoint),
			coalesce(sum(requests) FILTER (WHERE error_code = 0), 0),
			tierlimit._saturated(coalesce(sum(credits) FILTER (WHERE error_code = 0), 0)),
			coalesce(sum(requests) FILTER (WHERE error_code <> 0), 0)
		FROM %s
		GROUP BY 1, 2, 3, 4
		ON CONFLICT ON CONSTRAINT usage_hourly_key DO UPDATE SET
			requests = u.requests + excluded.requests,
			credits = tierlimit._saturated(u.credits::numeric + excluded.credits),
			denied = u.denied + excluded.denied$$, rows);

COMMENT ON FUNCTION tierlimit._hourly_upsert(text) IS 'The command that adds rows to usage_hourly';

-- Sum up what was decided before a time, and wasn't summed up before: whole minutes.
-- What the log writer is just writing is waited for, and what it writes later
-- comes late: it asks how far the sums are when its rows are there.  That takes a
-- snapshot for each statement.
CREATE FUNCTION tierlimit._sum_log(until timestamptz) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	since timestamptz;
BEGIN
	IF current_setting('transaction_isolation') <> 'read committed' THEN
		RAISE SQLSTATE '25001' USING MESSAGE = '_sum_log() needs the isolation level READ COMMITTED';
	END IF;
	LOCK TABLE ONLY tierlimit.request_log IN SHARE ROW EXCLUSIVE MODE;
	SELECT summed_until INTO since FROM tierlimit.log_state;
	until := date_trunc('minute', until, 'UTC');
	IF since IS NULL OR until IS NULL OR until <= since THEN
		RETURN;
	END IF;

	EXECUTE tierlimit._hourly_upsert('tierlimit.request_log WHERE at >= $1 AND at < $2')
	USING since, until;

	INSERT INTO tierlimit.usage_minute AS u (subject, is_account, minute, last_at, requests, credits)
	SELECT coalesce(account, key), account IS NOT NULL, date_trunc('minute', at), max(at), sum(requests),
		tierlimit._saturated(sum(credits))
	FROM tierlimit.request_log WHERE at >= since AND at < until AND error_code = 0 AND key IS NOT NULL
	GROUP BY 1, 2, 3 HAVING count(*) > 4 AND min(requests) >= 0 AND min(credits) >= 0
		AND bool_and(shadow_code IS DISTINCT FROM 0);

	UPDATE tierlimit.log_state SET summed_until = until;
END
$$;

COMMENT ON FUNCTION tierlimit._sum_log(timestamptz) IS 'Sum up what was logged before a time';

CREATE FUNCTION tierlimit._is_log_writer() RETURNS boolean
	AS 'MODULE_PATHNAME', 'tierlimit_is_log_writer_1_0'
	LANGUAGE C STABLE PARALLEL RESTRICTED;

COMMENT ON FUNCTION tierlimit._is_log_writer() IS 'Whether this process writes the request log';

-- Add rows to hours and minutes that are summed up already: those that the log
-- writer has written in the same transaction.
CREATE FUNCTION tierlimit._sum_late_rows(at timestamptz[], key text[], account text[], tier text[],
		endpoint text[], error_code integer[], requests integer[], credits bigint[], summed_until timestamptz)
	RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
	IF NOT tierlimit._is_log_writer() THEN
		RAISE SQLSTATE '55000' USING MESSAGE = '_sum_late_rows() is for the log writer alone';
	END IF;
	EXECUTE tierlimit._hourly_upsert('unnest($1, $2, $3, $4, $5, $6, $7)
		AS r (at, key, tier, endpoint, error_code, requests, credits) WHERE at < $8')
	USING $1, $2, $4, $5, $6, $7, $8, $9;

	-- what is given back is read row by row, in its order
	DELETE FROM tierlimit.usage_minute AS u
	USING unnest($1, $2, $3, $7, $8) AS r (at, key, account, requests, credits)
	WHERE r.at < $9 AND (r.requests < 0 OR r.credits < 0)
		AND u.subject = coalesce(r.account, r.key) AND u.is_account = (r.account IS NOT NULL)
		AND u.minute = date_trunc('minute', r.at);

	UPDATE tierlimit.usage_minute AS u SET
		last_at = greatest(u.last_at, r.last_at),
		requests = u.requests + r.requests,
		credits = tierlimit._saturated(u.credits::numeric + r.credits)
	FROM (SELECT coalesce(account, key), account IS NOT NULL, date_trunc('minute', at), max(at), sum(requests),
		tierlimit._saturated(sum(credits))
		FROM unnest($1, $2, $3, $6, $7, $8) AS r (at, key, account, error_code, requests, credits)
		WHERE at < $9 AND error_code = 0 GROUP BY 1, 2, 3) AS r (subject, is_account, minute, last_at, requests, credits)
	WHERE u.subject = r.subject AND u.is_account = r.is_account AND u.minute = r.minute;
END
$$;

COMMENT ON FUNCTION tierlimit._sum_late_rows(timestamptz[], text[], text[], text[], text[], integer[], integer[], bigint[], timestamptz) IS 'Add rows to what is summed up already';

-- A clock was wrong: what was counted later than could be is brought to a time, in
-- the log as in the sums.  That is all of it, whoever it was counted for: a call
-- counts for several subjects, and resets and refunds have to stay where they are
-- among the calls of each.  The newest goes to that time, and each before it a
-- microsecond earlier, which is later than it really was.
CREATE FUNCTION tierlimit._redate_rows(later_than timestamptz, until timestamptz) RETURNS void
	LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH moved AS (DELETE FROM tierlimit.request_log
			WHERE at > later_than AND at < 'infinity' AND error_code = 0 RETURNING *),
		brought AS (SELECT *, until - (count(*) OVER () - row_number() OVER (ORDER BY at, requests DESC))
			* interval '1 microsecond' AS new_at FROM moved),
		written AS (INSERT INTO tierlimit.request_log (at, key, account, tier, endpoint, ip, error_code, requests, credits, shadow_code, request_id)
			SELECT new_at, key, account, tier, endpoint, ip, error_code, requests, credits, shadow_code, request_id FROM brought),
		-- (the smallest numbers have no opposite)
		change AS (SELECT at, key, account, tier, endpoint, error_code,
				-greatest(requests, -2147483647) AS requests, -greatest(credits, -9223372036854775807) AS credits FROM brought
			UNION ALL SELECT new_at, key, account, tier, endpoint, error_code, requests, credits FROM brought
			-- one that forgets all before has to be read, as what gives back has: also
			-- with zeros, its minute is to have no sum
			UNION ALL SELECT new_at, key, account, tier, endpoint, error_code, n, 0
				FROM brought, unnest(ARRAY[-1, 1]) AS n WHERE shadow_code = 0)
	SELECT tierlimit._sum_late_rows(array_agg(at), array_agg(key), array_agg(account), array_agg(tier), array_agg(endpoint),
		array_agg(error_code), array_agg(requests), array_agg(credits), summed_until)
	FROM change, tierlimit.log_state WHERE at < summed_until GROUP BY summed_until;
$$;

COMMENT ON FUNCTION tierlimit._redate_rows(timestamptz, timestamptz) IS 'Bring rows that are later than a time to another: a clock was wrong';

--
-- Checking and counting
--

CREATE TYPE tierlimit.decision AS (
	allowed boolean,
	"limit" bigint,
	remaining bigint,
	retry_after integer,
	error_code integer,
	error text,
	http_status integer,
	key text,
	tier text,
	limit_name text,
	cost bigint,
	decided_at timestamptz,
	reset_at timestamptz,
	repeated boolean
);

COMMENT ON TYPE tierlimit.decision IS 'What every check returns';
COMMENT ON COLUMN tierlimit.decision."limit" IS 'max of the governing limit; NULL: no limit applies';
COMMENT ON COLUMN tierlimit.decision.remaining IS 'left in it after this call, or before it if denied';
COMMENT ON COLUMN tierlimit.decision.retry_after IS 'seconds after which the same call would be admitted; NULL: allowed, or never';
COMMENT ON COLUMN tierlimit.decision.error_code IS '0 when allowed';
COMMENT ON COLUMN tierlimit.decision.limit_name IS 'the governing limit';
COMMENT ON COLUMN tierlimit.decision.cost IS 'credits asked for';
COMMENT ON COLUMN tierlimit.decision.reset_at IS 'sliding: when the oldest counted call leaves; calendar: when the period ends';
COMMENT ON COLUMN tierlimit.decision.repeated IS 'the first answer to this request_id, given again';

-- What charges, or gives back, costs more than anything else in a WHERE clause, so
-- that the planner asks it last, of rows that pass all other conditions.
CREATE FUNCTION tierlimit.authorize(api_key text, endpoint text DEFAULT NULL, ip inet DEFAULT NULL,
		cost bigint DEFAULT NULL, request_id text DEFAULT NULL)
	RETURNS tierlimit.decision
	AS 'MODULE_PATHNAME', 'tierlimit_authorize_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

COMMENT ON FUNCTION tierlimit.authorize(text, text, inet, bigint, text) IS 'The whole gate in front of an API: check a secret, its key, tier, endpoint and address';

CREATE FUNCTION tierlimit.check(key text, tier text DEFAULT NULL, cost bigint DEFAULT 1,
		endpoint text DEFAULT NULL, request_id text DEFAULT NULL)
	RETURNS tierlimit.decision
	AS 'MODULE_PATHNAME', 'tierlimit_check_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

COMMENT ON FUNCTION tierlimit.check(text, text, bigint, text, text) IS 'Count a call if it fits into all limits of its tier';

CREATE FUNCTION tierlimit.peek(key text, tier text DEFAULT NULL, cost bigint DEFAULT 1)
	RETURNS tierlimit.decision
	AS 'MODULE_PATHNAME', 'tierlimit_peek_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;

COMMENT ON FUNCTION tierlimit.peek(text, text, bigint) IS 'What check would answer, with nothing counted';

CREATE FUNCTION tierlimit.check_many(keys text[], tier text DEFAULT NULL, cost bigint DEFAULT 1)
	RETURNS SETOF tierlimit.decision
	AS 'MODULE_PATHNAME', 'tierlimit_check_many_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000 ROWS 100;

COMMENT ON FUNCTION tierlimit.check_many(text[], text, bigint) IS 'Check each key on its own, in order';

CREATE FUNCTION tierlimit.refund(key text, cost bigint DEFAULT 1, requests integer DEFAULT 1,
		request_id text DEFAULT NULL)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'tierlimit_refund_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

COMMENT ON FUNCTION tierlimit.refund(text, bigint, integer, text) IS 'Give back the newest counted calls and credits of a key, or the call of a request_id; returns the credits';

CREATE FUNCTION tierlimit.reset(key text) RETURNS void
	AS 'MODULE_PATHNAME', 'tierlimit_reset_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 10000;

COMMENT ON FUNCTION tierlimit.reset(text) IS 'Forget what is counted for a key now';

CREATE FUNCTION tierlimit.usage(key text, tier text DEFAULT NULL)
	RETURNS TABLE (limit_name text, unit text, kind text, period interval,
		"limit" bigint, used bigint, remaining bigint, resets_at timestamptz)
	AS 'MODULE_PATHNAME', 'tierlimit_usage_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100 ROWS 4;

COMMENT ON FUNCTION tierlimit.usage(text, text) IS 'What is used and left in each limit, the shortest first';

--
-- Answers for HTTP
--

-- None of these is PARALLEL SAFE: they see what was committed after the query began,
-- which parallel workers can't.
CREATE FUNCTION tierlimit.headers(decision tierlimit.decision) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'tierlimit_headers_1_0'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit.headers(tierlimit.decision) IS 'Response headers: the governing limit, and when to try again';

-- This one is VOLATILE, since it reads the clock.
CREATE FUNCTION tierlimit.status(decision tierlimit.decision) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'tierlimit_status_1_0'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit.status(tierlimit.decision) IS 'The object "status" of a response';

CREATE FUNCTION tierlimit.error_body(decision tierlimit.decision) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'tierlimit_error_body_1_0'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit.error_body(tierlimit.decision) IS 'The body of a refusal; NULL when allowed';

CREATE FUNCTION tierlimit.problem(decision tierlimit.decision) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'tierlimit_problem_1_0'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit.problem(tierlimit.decision) IS 'The body of a refusal as problem details (RFC 9457); NULL when allowed';

--
-- Secrets
--

CREATE FUNCTION tierlimit.create_key(name text, tier text, account text DEFAULT NULL,
		description text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'tierlimit_create_key_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit.create_key(text, text, text, text) IS 'Register a key; returns its secret, which is shown this once';

CREATE FUNCTION tierlimit.rotate_key(name text) RETURNS text
	AS 'MODULE_PATHNAME', 'tierlimit_rotate_key_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit.rotate_key(text) IS 'Give a key a new secret, which is shown this once; the old one stops at COMMIT';

--
-- Memory and log
--

CREATE TYPE tierlimit.verification AS (
	key text,
	limit_name text,
	counted bigint,
	logged bigint,
	difference bigint
);

COMMENT ON TYPE tierlimit.verification IS 'What verify() returns for each limit';
COMMENT ON COLUMN tierlimit.verification.counted IS 'in memory';
COMMENT ON COLUMN tierlimit.verification.logged IS 'by the request log';

CREATE FUNCTION tierlimit.verify(key text DEFAULT NULL)
	RETURNS SETOF tierlimit.verification
	AS 'MODULE_PATHNAME', 'tierlimit_verify_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit.verify(text) IS 'What memory counts against what the request log says: of a key or account, or of all that are in memory';

CREATE FUNCTION tierlimit.log_flush() RETURNS void
	AS 'MODULE_PATHNAME', 'tierlimit_log_flush_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit.log_flush() IS 'Wait until all that was decided before is in the request log';

--
-- Statistics
--

CREATE FUNCTION tierlimit._stat_counters(
		OUT checks bigint, OUT admitted bigint, OUT denied bigint, OUT refunds bigint,
		OUT keys bigint, OUT memory_used bigint, OUT memory_total bigint,
		OUT log_pending bigint, OUT log_written bigint, OUT log_lag interval,
		OUT evictions bigint, OUT rebuilds bigint, OUT stats_reset timestamptz)
	AS 'MODULE_PATHNAME', 'tierlimit_stat_counters_1_0'
	LANGUAGE C VOLATILE PARALLEL SAFE;

COMMENT ON FUNCTION tierlimit._stat_counters() IS 'What the view stat shows';

CREATE VIEW tierlimit.stat AS SELECT * FROM tierlimit._stat_counters();

COMMENT ON VIEW tierlimit.stat IS 'Calls and memory, of all databases of this server together';
COMMENT ON COLUMN tierlimit.stat.keys IS 'keys, accounts, addresses and callers without a key in memory';
COMMENT ON COLUMN tierlimit.stat.memory_used IS 'bytes, of memory_total';
COMMENT ON COLUMN tierlimit.stat.log_pending IS 'decisions that wait to be written to the request log';
COMMENT ON COLUMN tierlimit.stat.log_written IS 'rows written to the request log';
COMMENT ON COLUMN tierlimit.stat.log_lag IS 'for how long the oldest of the pending ones may have waited';
COMMENT ON COLUMN tierlimit.stat.evictions IS 'keys and accounts that made room for others';
COMMENT ON COLUMN tierlimit.stat.rebuilds IS 'keys and accounts whose windows were filled from the request log';

CREATE FUNCTION tierlimit._memory(OUT subject text, OUT kind text, OUT windows integer,
		OUT blocks integer, OUT clock timestamptz, OUT log_position bigint, OUT claimed boolean)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tierlimit_memory_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit._memory() IS 'What the view memory shows';

CREATE VIEW tierlimit.memory AS SELECT * FROM tierlimit._memory();

COMMENT ON VIEW tierlimit.memory IS 'Who of this database is in shared memory: for the superuser';
COMMENT ON COLUMN tierlimit.memory.subject IS 'its name; NULL: it has none that can be read';
COMMENT ON COLUMN tierlimit.memory.kind IS 'key, account, address, anonymous (a caller without a key), nobody (one without an address either), secret or request_id';
COMMENT ON COLUMN tierlimit.memory.blocks IS 'of 128 bytes each, with its windows';
COMMENT ON COLUMN tierlimit.memory.clock IS 'when it was decided last';
COMMENT ON COLUMN tierlimit.memory.log_position IS 'where its newest row ends in the queue of the log';
COMMENT ON COLUMN tierlimit.memory.claimed IS 'a session compares it with the request log';

CREATE FUNCTION tierlimit.stat_reset() RETURNS void
	AS 'MODULE_PATHNAME', 'tierlimit_stat_reset_1_0'
	LANGUAGE C VOLATILE PARALLEL SAFE;

COMMENT ON FUNCTION tierlimit.stat_reset() IS 'Set the counters of the view stat to zero';

--
-- Privileges
--

CREATE FUNCTION tierlimit.grant_service(role name) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	EXECUTE format('GRANT USAGE ON SCHEMA tierlimit TO %I', role);
	EXECUTE format('GRANT USAGE ON TYPE tierlimit.decision TO %I', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION tierlimit.authorize, tierlimit.check, tierlimit.check_many,'
				   ' tierlimit.peek, tierlimit.refund, tierlimit.usage,'
				   ' tierlimit.headers, tierlimit.status, tierlimit.error_body,'
				   ' tierlimit.problem TO %I', role);
END
$$;

COMMENT ON FUNCTION tierlimit.grant_service(name) IS 'Grant a role what a service needs to check calls and answer them, and no more';

CREATE FUNCTION tierlimit.grant_monitoring(role name) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	EXECUTE format('GRANT USAGE ON SCHEMA tierlimit TO %I', role);
	EXECUTE format('GRANT SELECT ON tierlimit.stat TO %I', role);
END
$$;

COMMENT ON FUNCTION tierlimit.grant_monitoring(name) IS 'Grant a role the statistics, and no more';

--
-- PostgREST
--

-- Of a list like "client, proxy, proxy", in which each has appended whom it had
-- the call from, the entry that the outermost of so many proxies wrote: what is
-- before it may be made up.  NULL if it is no address.
CREATE FUNCTION tierlimit._forwarded_for(header text, proxies integer) RETURNS inet
	LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	hops text[] := string_to_array(header, ',');
	hop text := btrim(hops[greatest(cardinality(hops) - proxies + 1, 1)], E' \t');
BEGIN
	IF proxies < 1 THEN
		RETURN NULL;
	END IF;
	-- some write 192.0.2.7:1234 or [2001:db8::7]:1234
	hop := coalesce(substring(hop FROM '^\[(.*)\](?::\d+)?$'), substring(hop FROM '^([\d.]+):\d+$'), hop);
	RETURN CASE WHEN hop ~ '^[0-9A-Fa-f:.]+$' THEN hop::inet END;
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;

COMMENT ON FUNCTION tierlimit._forwarded_for(text, integer) IS 'The caller''s address by X-Forwarded-For, behind so many proxies';

-- The secret that was sent.  Bearer tokens are mostly PostgREST's own, JWTs, but
-- those never begin as our secrets do.
CREATE FUNCTION tierlimit._sent_key(headers jsonb, header text) RETURNS text
	LANGUAGE sql IMMUTABLE
	RETURN CASE lower(header)
		WHEN 'authorization' THEN substring(headers ->> 'authorization' FROM '(?i)^bearer +(\S+)$')
		ELSE coalesce(nullif(headers ->> lower(header), ''),
					  substring(headers ->> 'authorization' FROM '(?i)^bearer +(tl_\S+)$')) END;

COMMENT ON FUNCTION tierlimit._sent_key(jsonb, text) IS 'The secret in the headers of a request';

-- Append to the headers that others may have set.
CREATE FUNCTION tierlimit._add_response_headers(headers jsonb) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	already jsonb := coalesce(nullif(current_setting('response.headers', true), ''), '[]');
BEGIN
	PERFORM set_config('response.headers', (already || jsonb_agg(jsonb_build_object(key, value)))::text, true)
	FROM jsonb_each(headers) HAVING count(*) > 0;
END
$$;

COMMENT ON FUNCTION tierlimit._add_response_headers(jsonb) IS 'Append headers to the response that PostgREST will send';

-- Refusals are in the request log: were they in the server's, too, a flood of
-- them would fill it.
CREATE FUNCTION tierlimit._raise_refusal(decision tierlimit.decision) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET log_min_messages = fatal AS $$
DECLARE
	status jsonb := tierlimit.status(decision);
	hint text := resolution FROM tierlimit.error_code WHERE code = decision.error_code;
BEGIN
	RAISE SQLSTATE 'PGRST' USING
		MESSAGE = jsonb_build_object('code', decision.error, 'message', status ->> 'error_message',
			'details', status::text, 'hint', hint),
		DETAIL = jsonb_build_object('status', decision.http_status, 'headers', tierlimit.headers(decision));
END
$$;

COMMENT ON FUNCTION tierlimit._raise_refusal(tierlimit.decision) IS 'Make PostgREST answer with a refusal';

-- PostgREST runs this in the transaction of each request, as the role of the one
-- who sent it.  So that that role needs no right to anything else here, not even
-- to check() and refund(), it does its work as the extension's owner.  What it
-- reads are settings that PostgREST makes for each transaction, and two of the
-- superuser's; that role has no say in which header it believes.
CREATE FUNCTION tierlimit.pre_request() RETURNS void
	LANGUAGE plpgsql COST 10000 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	headers jsonb := nullif(current_setting('request.headers', true), '');
	path text := nullif(current_setting('request.path', true), '');
	proxies integer := current_setting('tierlimit.trusted_proxies', true);
	-- a proxy repeats a call, as may be; a caller's own id would be a call for nothing
	request_id text := nullif(headers ->> 'x-request-id', '');
	d tierlimit.decision;
BEGIN
	IF proxies < 1 OR octet_length(request_id) > 255 THEN
		request_id := NULL;
	END IF;
	SELECT * INTO d FROM tierlimit.authorize(
		tierlimit._sent_key(headers, current_setting('tierlimit.api_key_header', true)),
		endpoint => path,
		ip => tierlimit._forwarded_for(headers ->> 'x-forwarded-for', proxies),
		request_id => request_id);
	IF d.allowed THEN
		PERFORM tierlimit._add_response_headers(tierlimit.headers(d));
	ELSE
		PERFORM tierlimit._raise_refusal(d);
	END IF;
END
$$;

COMMENT ON FUNCTION tierlimit.pre_request() IS 'For PostgREST''s db-pre-request: authorize each request';

CREATE FUNCTION tierlimit.grant_postgrest(role name) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	EXECUTE format('GRANT USAGE ON SCHEMA tierlimit TO %I', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION tierlimit.pre_request TO %I', role);
END
$$;

COMMENT ON FUNCTION tierlimit.grant_postgrest(name) IS 'Grant a role that PostgREST impersonates what it needs for db-pre-request, and no more';

--
-- Nothing is granted to PUBLIC
--

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA tierlimit FROM PUBLIC;

-- A view calls its functions as whoever reads it: this one asks for the right to read
-- the view stat.
GRANT EXECUTE ON FUNCTION tierlimit._stat_counters TO PUBLIC;

REVOKE ALL ON TYPE tierlimit.decision, tierlimit.verification FROM PUBLIC;
