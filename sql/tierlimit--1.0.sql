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
	description text,
	price numeric CHECK (price >= 0 AND price < 'Infinity')
);

COMMENT ON TABLE tierlimit.tier IS 'Plans that keys are on';
COMMENT ON COLUMN tierlimit.tier.name IS '1 to 63 printable ASCII characters';
COMMENT ON COLUMN tierlimit.tier.price IS 'of one billing period; NULL: none';

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
	overage_price numeric CHECK (overage_price >= 0 AND overage_price < 'Infinity'),
	enforce boolean NOT NULL DEFAULT true,
	error_code integer REFERENCES tierlimit.error_code ON UPDATE CASCADE,
	PRIMARY KEY (tier, name),
	UNIQUE (tier, period, kind, unit),
	-- a limit that denies has no overage
	CONSTRAINT tier_limit_overage_price_enforce_check CHECK (overage_price IS NULL OR NOT enforce),
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
COMMENT ON COLUMN tierlimit.tier_limit.overage_price IS 'of a unit over max, on bills; NULL: none';

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
CREATE INDEX ON tierlimit.api_key (account) WHERE account IS NOT NULL;

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

-- Sums of the log, of which reports and bills are made.  They are kept by hours, which
-- any zone's days are made of; by days; by months, which most bills are made of; and of
-- all keys together by what was answered.
CREATE TABLE tierlimit.usage_hourly (
	hour timestamptz NOT NULL,
	key text,
	account text,
	tier text,
	endpoint text,
	requests bigint NOT NULL,
	credits bigint NOT NULL,
	denied bigint NOT NULL,
	CONSTRAINT usage_hourly_key UNIQUE NULLS NOT DISTINCT (key, hour, account, tier, endpoint)
);

COMMENT ON TABLE tierlimit.usage_hourly IS 'Sums of the request log by hours';
COMMENT ON COLUMN tierlimit.usage_hourly.key IS 'NULL: there was none, or none that is known';
COMMENT ON COLUMN tierlimit.usage_hourly.account IS 'under whose name it was counted; NULL: the key''s own';
COMMENT ON COLUMN tierlimit.usage_hourly.endpoint IS 'the pattern that matched; NULL: none did';
COMMENT ON COLUMN tierlimit.usage_hourly.requests IS 'admitted calls, less those given back';
COMMENT ON COLUMN tierlimit.usage_hourly.credits IS 'of the admitted calls';
COMMENT ON COLUMN tierlimit.usage_hourly.denied IS 'denied calls';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.usage_hourly', '');
ALTER TABLE tierlimit.usage_hourly REPLICA IDENTITY FULL;
CREATE INDEX ON tierlimit.usage_hourly (account, hour) WHERE account IS NOT NULL;
CREATE INDEX ON tierlimit.usage_hourly USING brin (hour);

-- A row is added to once in each hour of its day: within its page, as may be.
CREATE TABLE tierlimit.usage_daily (
	day timestamptz NOT NULL,
	key text,
	account text,
	tier text,
	endpoint text,
	requests bigint NOT NULL,
	credits bigint NOT NULL,
	denied bigint NOT NULL,
	CONSTRAINT usage_daily_key UNIQUE NULLS NOT DISTINCT (key, day, account, tier, endpoint)
) WITH (fillfactor = 80);

COMMENT ON TABLE tierlimit.usage_daily IS 'Sums of the request log by days of UTC; columns as in usage_hourly';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.usage_daily', '');
ALTER TABLE tierlimit.usage_daily REPLICA IDENTITY FULL;
CREATE INDEX ON tierlimit.usage_daily (account, day) WHERE account IS NOT NULL;
CREATE INDEX ON tierlimit.usage_daily USING brin (day);

CREATE TABLE tierlimit.usage_monthly (
	month timestamptz NOT NULL,
	key text,
	account text,
	tier text,
	requests bigint NOT NULL,
	credits bigint NOT NULL,
	denied bigint NOT NULL,
	CONSTRAINT usage_monthly_key UNIQUE NULLS NOT DISTINCT (key, month, account, tier)
) WITH (fillfactor = 80);

COMMENT ON TABLE tierlimit.usage_monthly IS 'Sums of the request log by months of UTC; columns as in usage_hourly';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.usage_monthly', '');
ALTER TABLE tierlimit.usage_monthly REPLICA IDENTITY FULL;
CREATE INDEX ON tierlimit.usage_monthly (account, month) WHERE account IS NOT NULL;

CREATE TABLE tierlimit.usage_by_code (
	hour timestamptz NOT NULL,
	tier text,
	error_code integer NOT NULL,
	requests bigint NOT NULL,
	credits bigint NOT NULL,
	CONSTRAINT usage_by_code_key UNIQUE NULLS NOT DISTINCT (hour, tier, error_code)
);

COMMENT ON TABLE tierlimit.usage_by_code IS 'Sums of the request log of all keys together, by hours and answers';
COMMENT ON COLUMN tierlimit.usage_by_code.error_code IS '0: admitted';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.usage_by_code', '');
ALTER TABLE tierlimit.usage_by_code REPLICA IDENTITY FULL;

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
	dropped_at timestamptz NOT NULL DEFAULT now(),
	kept_since timestamptz NOT NULL DEFAULT '-infinity'
);

COMMENT ON TABLE tierlimit.log_state IS 'One row: how far the maintenance of the request log has come';
COMMENT ON COLUMN tierlimit.log_state.summed_until IS 'what was decided before is in the sums';
COMMENT ON COLUMN tierlimit.log_state.dropped_at IS 'when old rows were last dropped';
COMMENT ON COLUMN tierlimit.log_state.kept_since IS 'rows that are older were dropped, or may be: of that time there are sums only';

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
-- Sums are kept until what they count is billed.
CREATE FUNCTION tierlimit._drop_old_log(retention interval, usage_retention interval) RETURNS boolean
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	longest interval := coalesce(max(period), '0') * 1.03 + '1 day' FROM tierlimit.tier_limit;
	before timestamptz := least(now() - greatest(retention, longest), summed_until)
		FROM tierlimit.log_state WHERE dropped_at <= now() - interval '1 day';
	oldest regclass := i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = 'tierlimit.request_log'::regclass AND c.relname ~ '^request_log_[0-9]{8}$'
			AND (to_date(right(c.relname, 8), 'YYYYMMDD') + 1)::timestamp AT TIME ZONE 'UTC' <= before
		ORDER BY c.relname LIMIT 1;
	unused timestamptz := date_trunc('day', least(now() - nullif(usage_retention, '0'), before,
		(SELECT min(period_start) FROM tierlimit.bill_period)), 'UTC') WHERE usage_retention > '0';
	piece record;
	deleted bigint;
BEGIN
	IF before IS NULL THEN
		RETURN false;
	END IF;
	UPDATE tierlimit.log_state SET kept_since = date_trunc('hour', before, 'UTC') + interval '1 hour'
	WHERE kept_since < before;
	IF oldest IS NOT NULL THEN
		EXECUTE format('DROP TABLE %s', oldest);
		RETURN true;
	END IF;
	FOR piece IN SELECT * FROM (VALUES ('request_log_default', 'at', before), ('usage_minute', 'minute', before),
			('usage_hourly', 'hour', unused), ('usage_daily', 'day', unused), ('usage_monthly', 'month', date_trunc('month', unused, 'UTC')), ('usage_by_code', 'hour', unused))
			AS x (name, col, before) WHERE x.before IS NOT NULL LOOP
		EXECUTE format('DELETE FROM tierlimit.%1$I WHERE ctid = ANY (ARRAY(
			SELECT ctid FROM tierlimit.%1$I WHERE %2$I < $1 LIMIT 10000))', piece.name, piece.col)
		USING piece.before;
		GET DIAGNOSTICS deleted = ROW_COUNT;
		IF deleted > 0 THEN
			RETURN true;
		END IF;
	END LOOP;
	UPDATE tierlimit.log_state SET dropped_at = now();
	RETURN false;
END
$$;

COMMENT ON FUNCTION tierlimit._drop_old_log(interval, interval) IS 'Drop a piece of what was logged or summed up before the retentions; false: nothing is left of it';

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

-- Rows of the log, and rows that come late, are added to the sums by the same command.
-- The caller says, in SQL, where it is to read them.  So those of the log, which can be
-- millions, are summed up as they are read, and kept nowhere.  Whose usage it was, and when,
-- is noted for the bills.
CREATE FUNCTION tierlimit._add_to_sums(rows text) RETURNS text
	LANGUAGE sql STABLE
	RETURN format($$
		WITH sums AS MATERIALIZED (
			SELECT date_trunc('hour', at, 'UTC') AS hour, tierlimit._summed_key(key, tier, error_code) AS key,
				account, tier, tierlimit._endpoint_pattern(endpoint) AS endpoint, error_code,
				sum(requests) AS requests, sum(credits) AS credits, min(at) AS first_at, max(at) AS last_at
			FROM %s GROUP BY 1, 2, 3, 4, 5, 6),
		by_key AS MATERIALIZED (
			SELECT hour, key, account, tier, endpoint,
				coalesce(sum(requests) FILTER (WHERE error_code = 0), 0) AS requests,
				coalesce(sum(credits) FILTER (WHERE error_code = 0), 0) AS credits,
				coalesce(sum(requests) FILTER (WHERE error_code <> 0), 0) AS denied
			FROM sums GROUP BY 1, 2, 3, 4, 5),
		hourly AS (
			INSERT INTO tierlimit.usage_hourly AS u (hour, key, account, tier, endpoint, requests, credits, denied)
			SELECT hour, key, account, tier, endpoint, requests, tierlimit._saturated(credits), denied FROM by_key
			ON CONFLICT ON CONSTRAINT usage_hourly_key DO UPDATE SET
				requests = u.requests + excluded.requests,
				credits = tierlimit._saturated(u.credits::numeric + excluded.credits),
				denied = u.denied + excluded.denied),
		daily AS (
			INSERT INTO tierlimit.usage_daily AS u (day, key, account, tier, endpoint, requests, credits, denied)
			SELECT date_trunc('day', hour, 'UTC'), key, account, tier, endpoint,
				sum(requests), tierlimit._saturated(sum(credits)), sum(denied)
			FROM by_key GROUP BY 1, 2, 3, 4, 5
			ON CONFLICT ON CONSTRAINT usage_daily_key DO UPDATE SET
				requests = u.requests + excluded.requests,
				credits = tierlimit._saturated(u.credits::numeric + excluded.credits),
				denied = u.denied + excluded.denied),
		monthly AS (
			INSERT INTO tierlimit.usage_monthly AS u (month, key, account, tier, requests, credits, denied)
			-- (the first month of all begins before the first time)
			SELECT CASE WHEN hour < '4712-01-01 00:00+00 BC' THEN '-infinity' ELSE date_trunc('month', hour, 'UTC') END, key, account, tier,
				sum(requests), tierlimit._saturated(sum(credits)), sum(denied)
			FROM by_key GROUP BY 1, 2, 3, 4
			ON CONFLICT ON CONSTRAINT usage_monthly_key DO UPDATE SET
				requests = u.requests + excluded.requests,
				credits = tierlimit._saturated(u.credits::numeric + excluded.credits),
				denied = u.denied + excluded.denied),
		by_code AS (
			INSERT INTO tierlimit.usage_by_code AS u (hour, tier, error_code, requests, credits)
			SELECT hour, tier, error_code, sum(requests), tierlimit._saturated(sum(credits))
			FROM sums GROUP BY 1, 2, 3
			ON CONFLICT ON CONSTRAINT usage_by_code_key DO UPDATE SET
				requests = u.requests + excluded.requests,
				credits = tierlimit._saturated(u.credits::numeric + excluded.credits))
		INSERT INTO tierlimit.bill_pending (subject, is_account, first_at, last_at, tier)
		SELECT s.* FROM (
			SELECT coalesce(account, key) AS subject, account IS NOT NULL AS is_account,
				min(first_at) AS first_at, max(last_at) AS last_at, max(tier)
			FROM sums WHERE key IS NOT NULL GROUP BY 1, 2, hour) s
		WHERE NOT EXISTS (SELECT FROM tierlimit.bill_period p
			WHERE p.subject = s.subject AND p.is_account = s.is_account
				AND s.first_at >= p.period_start AND s.last_at < p.period_end)$$, rows);

COMMENT ON FUNCTION tierlimit._add_to_sums(text) IS 'The command that adds rows to the sums';

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
	PERFORM tierlimit._begin_bills();

	EXECUTE tierlimit._add_to_sums('tierlimit.request_log WHERE at >= $1 AND at < $2')
	USING since, until;
	PERFORM tierlimit._open_bill_periods();

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
	EXECUTE tierlimit._add_to_sums('unnest($1, $2, $3, $4, $5, $6, $7, $8)
		AS r (at, key, account, tier, endpoint, error_code, requests, credits) WHERE at < $9')
	USING $1, $2, $3, $4, $5, $6, $7, $8, $9;
	PERFORM tierlimit._open_bill_periods();
	PERFORM tierlimit._bill_late_rows($1, $2, $3, $4, $6, $7, $8, $9);
	PERFORM tierlimit._open_bill_periods();

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
-- Bills
--

-- A bill is for a subject, which is an account or a key that has none, and for a billing
-- period.  Data flow: what is summed up opens the period that it falls into (bill_period),
-- if that is not open; when a period is over, what holds at its end is put down in it
-- (_freeze_bills), by the log writer or by whoever is about to change the configuration;
-- and when the sums have passed its end, the log writer makes its rows of bill of it.
-- Sums themselves are kept in one place only: a period that is open has none.
--
-- What always holds: the periods of a subject, open and billed, do not overlap.  All that is
-- in the sums is in an open period or on a bill, or was carried over (bill_carried): it came
-- when its period was on a bill, and is on the next one.

CREATE TABLE tierlimit.bill (
	subject text NOT NULL,
	keys bigint NOT NULL,
	tier text,
	period_start timestamptz NOT NULL,
	period_end timestamptz NOT NULL,
	unit text NOT NULL,
	used bigint NOT NULL,
	denied bigint NOT NULL,
	included bigint,
	overage bigint NOT NULL,
	unit_price numeric,
	amount numeric NOT NULL,
	is_account boolean NOT NULL,
	PRIMARY KEY (subject, is_account, period_start, unit)
);

COMMENT ON TABLE tierlimit.bill IS 'Bills of periods that are over: written once, kept for good';
COMMENT ON COLUMN tierlimit.bill.subject IS 'account, or key that has none';
COMMENT ON COLUMN tierlimit.bill.keys IS 'how many were registered under it at the period''s end';
COMMENT ON COLUMN tierlimit.bill.unit IS 'requests, credits, or period: the tier''s price';
COMMENT ON COLUMN tierlimit.bill.used IS 'less what was given back in the period';
COMMENT ON COLUMN tierlimit.bill.denied IS 'calls';
COMMENT ON COLUMN tierlimit.bill.included IS 'max of the tier''s longest calendar limit; NULL: there is none';
COMMENT ON COLUMN tierlimit.bill.overage IS 'what exceeds that, or 0';
COMMENT ON COLUMN tierlimit.bill.amount IS 'not rounded';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.bill', '');
CREATE INDEX ON tierlimit.bill USING brin (period_start, period_end);

CREATE TABLE tierlimit.bill_period (
	subject text NOT NULL,
	is_account boolean NOT NULL,
	period_start timestamptz NOT NULL,
	period_end timestamptz NOT NULL,
	length interval NOT NULL,
	anchor timestamptz,
	timezone text NOT NULL,
	is_whole boolean NOT NULL,
	touched_at timestamptz NOT NULL DEFAULT '-infinity',
	frozen boolean NOT NULL DEFAULT false,
	tier text,
	keys bigint,
	price numeric,
	requests_included bigint,
	requests_price numeric,
	credits_included bigint,
	credits_price numeric,
	PRIMARY KEY (subject, is_account, period_start)
);

COMMENT ON TABLE tierlimit.bill_period IS 'Billing periods that are not on a bill yet';
COMMENT ON COLUMN tierlimit.bill_period.length IS 'this, the anchor and the time zone are those that the period was made by';
COMMENT ON COLUMN tierlimit.bill_period.is_whole IS 'it is a period of that calendar, which no change of it has cut: only these cost a price';
COMMENT ON COLUMN tierlimit.bill_period.touched_at IS 'when something was last added to it by a row that came late';
COMMENT ON COLUMN tierlimit.bill_period.frozen IS 'it is over, and the columns from tier on are what held at its end';

-- A period that is not frozen is made again from the sums: see _keep_bills().
SELECT pg_catalog.pg_extension_config_dump('tierlimit.bill_period', 'WHERE frozen');
CREATE INDEX ON tierlimit.bill_period (period_end);

CREATE TABLE tierlimit.bill_pending (
	subject text NOT NULL,
	is_account boolean NOT NULL,
	first_at timestamptz NOT NULL,
	last_at timestamptz NOT NULL,
	tier text
);

COMMENT ON TABLE tierlimit.bill_pending IS 'Whose usage of which times has no open period yet; empty outside of a transaction of the log writer';

ALTER TABLE tierlimit.bill_pending REPLICA IDENTITY FULL;

CREATE TABLE tierlimit.bill_carried (
	subject text NOT NULL,
	is_account boolean NOT NULL,
	requests bigint NOT NULL,
	credits bigint NOT NULL,
	denied bigint NOT NULL,
	PRIMARY KEY (subject, is_account)
);

COMMENT ON TABLE tierlimit.bill_carried IS 'Usage of a period that was on a bill before its row came: it will be on the next one';

SELECT pg_catalog.pg_extension_config_dump('tierlimit.bill_carried', '');

-- One row once all sums have their periods.  It is not dumped, as most of those are not:
-- so it tells a database in use from one that is being restored, in which nobody must sum
-- up rows that are not there yet.
CREATE TABLE tierlimit.bill_state (
	opened_until timestamptz NOT NULL
);

COMMENT ON TABLE tierlimit.bill_state IS 'One row, once calls were logged here: how far the keeping of bills has come';
COMMENT ON COLUMN tierlimit.bill_state.opened_until IS 'keys with a price that were registered before have an open period';

CREATE UNIQUE INDEX ON tierlimit.bill_state ((true));
ALTER TABLE tierlimit.bill_state REPLICA IDENTITY FULL;

-- Who is registered, as bills name them.  What a key used before it joined its account is
-- billed to the key: there, it counts as no key.
CREATE VIEW tierlimit._billed_subject AS
	SELECT name AS subject, false AS is_account, (account IS NULL)::integer::bigint AS keys, tier,
		billing_anchor, billing_timezone, created_at
	FROM tierlimit.api_key
	UNION ALL
	SELECT * FROM (
		SELECT DISTINCT ON (account) account, true, count(*) OVER (PARTITION BY account), tier,
			billing_anchor, billing_timezone, created_at
		FROM tierlimit.api_key WHERE account IS NOT NULL
		ORDER BY account, created_at, name COLLATE "C") oldest;

COMMENT ON VIEW tierlimit._billed_subject IS 'Keys and accounts, with what their billing periods and prices go by; an account has that of its oldest key';

-- The same of one, by the index.
CREATE FUNCTION tierlimit._billed(subject text, is_account boolean,
		OUT tier text, OUT billing_anchor timestamptz, OUT billing_timezone text)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT k.tier, k.billing_anchor, k.billing_timezone FROM tierlimit.api_key k WHERE NOT is_account AND k.name = subject
	UNION ALL
	(SELECT k.tier, k.billing_anchor, k.billing_timezone FROM tierlimit.api_key k WHERE is_account AND k.account = subject
	ORDER BY k.created_at, k.name COLLATE "C" LIMIT 1);
$$;

COMMENT ON FUNCTION tierlimit._billed(text, boolean) IS 'What the billing periods of a key or an account go by';

CREATE VIEW tierlimit._billed_tier AS
	SELECT t.name AS tier, t.price, coalesce(longest.period, '1 month') AS length, l.*
	FROM tierlimit.tier t,
		LATERAL (SELECT max(period) AS period FROM tierlimit.tier_limit
			WHERE tier = t.name AND kind = 'calendar') longest,
		LATERAL (SELECT max(max) FILTER (WHERE unit = 'requests')::bigint AS requests_included,
				max(overage_price) FILTER (WHERE unit = 'requests') AS requests_price,
				max(max) FILTER (WHERE unit = 'credits')::bigint AS credits_included,
				max(overage_price) FILTER (WHERE unit = 'credits') AS credits_price
			FROM tierlimit.tier_limit
			WHERE tier = t.name AND kind = 'calendar' AND period = longest.period) l;

COMMENT ON VIEW tierlimit._billed_tier IS 'What bills say of a tier: its longest calendar limit, of each unit, and its prices';

CREATE FUNCTION tierlimit._now() RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'tierlimit_now_1_0' LANGUAGE C STABLE PARALLEL RESTRICTED;

COMMENT ON FUNCTION tierlimit._now() IS 'The clock that calls are decided by: the server''s, or tierlimit.now';

CREATE FUNCTION tierlimit._calendar_period(length interval, anchor timestamptz, timezone text, at timestamptz,
		OUT period_start timestamptz, OUT period_end timestamptz)
	AS 'MODULE_PATHNAME', 'tierlimit_calendar_period_1_0' LANGUAGE C STABLE PARALLEL SAFE;

COMMENT ON FUNCTION tierlimit._calendar_period(interval, timestamptz, text, timestamptz) IS 'The calendar period that a time is in, as windows have it';

CREATE TYPE tierlimit._billing_span AS (
	period_start timestamptz,
	period_end timestamptz,
	is_whole boolean
);

COMMENT ON TYPE tierlimit._billing_span IS 'A billing period; whole, if it is one of its calendar';

-- The billing period of a time: that of the calendar, as far as it is free of the subject's
-- other periods.  NULL if the time is in one of these.  One of them, by its start, can be
-- taken for not there.
CREATE FUNCTION tierlimit._billing_period(subject text, is_account boolean, length interval, anchor timestamptz,
		timezone text, at timestamptz, instead_of timestamptz DEFAULT NULL)
	RETURNS tierlimit._billing_span
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH other AS (
		(SELECT b.period_start, b.period_end FROM tierlimit.bill b
			WHERE b.subject = $1 AND b.is_account = $2 AND b.period_start <= at ORDER BY b.period_start DESC LIMIT 1)
		UNION ALL
		(SELECT b.period_start, b.period_end FROM tierlimit.bill b
			WHERE b.subject = $1 AND b.is_account = $2 AND b.period_start > at ORDER BY b.period_start LIMIT 1)
		UNION ALL
		(SELECT p.period_start, p.period_end FROM tierlimit.bill_period p
			WHERE p.subject = $1 AND p.is_account = $2 AND p.period_start <> coalesce(instead_of, 'infinity')))
	SELECT greatest(c.period_start, n.since), least(c.period_end, n.until),
		n.since <= c.period_start IS NOT FALSE AND n.until >= c.period_end IS NOT FALSE
	FROM (SELECT max(o.period_end) FILTER (WHERE o.period_start <= at) AS since,
			min(o.period_start) FILTER (WHERE o.period_start > at) AS until FROM other o) n,
		tierlimit._calendar_period(length, anchor, timezone, at) c
	WHERE n.since IS NULL OR n.since <= at;
$$;

COMMENT ON FUNCTION tierlimit._billing_period(text, boolean, interval, timestamptz, text, timestamptz, timestamptz) IS 'The billing period that a time is in, between the subject''s others';

-- The same where the calendar was changed since the period of a time was opened: what is over
-- of that, before the new calendar's running period, is a part that stays together.
CREATE FUNCTION tierlimit._changed_period(subject text, is_account boolean, length interval, anchor timestamptz,
		timezone text, at timestamptz, opened_at timestamptz)
	RETURNS tierlimit._billing_span
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT opened_at, r.period_start, false
	FROM tierlimit._calendar_period(length, anchor, timezone, tierlimit._now()) r
	WHERE opened_at < r.period_start AND at < r.period_start
	UNION ALL
	SELECT p.* FROM tierlimit._calendar_period(length, anchor, timezone, tierlimit._now()) r,
		tierlimit._billing_period(subject, is_account, length, anchor, timezone, at, opened_at) p
	WHERE (opened_at < r.period_start AND at < r.period_start) IS NOT TRUE;
$$;

COMMENT ON FUNCTION tierlimit._changed_period(text, boolean, interval, timestamptz, text, timestamptz, timestamptz) IS 'The billing period that a time is in, by a calendar that was changed';

-- Open the periods that bill_pending asks for.  Usage that goes on after the end of a
-- period asks for the next one in the next round.
--
-- Tables of bills grow by thousands of rows within a transaction, and plans would be made for
-- how large they were when they were last analyzed: so indexes are used, whatever that was.
CREATE FUNCTION tierlimit._open_bill_periods() RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
BEGIN
	WHILE EXISTS (SELECT FROM tierlimit.bill_pending) LOOP
		INSERT INTO tierlimit.bill_period (subject, is_account, period_start, period_end, length, anchor, timezone, is_whole)
		SELECT n.subject, n.is_account, c.period_start, c.period_end,
			coalesce(t.length, '1 month'), r.billing_anchor, coalesce(r.billing_timezone, 'UTC'), c.is_whole
		FROM (SELECT DISTINCT ON (subject, is_account) subject, is_account, first_at, tier
				FROM tierlimit.bill_pending ORDER BY subject, is_account, first_at) n
			-- (whatever is known of a table that is mostly empty: one by one)
			CROSS JOIN LATERAL tierlimit._billed(n.subject, n.is_account) r
			LEFT JOIN tierlimit._billed_tier t ON t.tier = coalesce(r.tier, n.tier),
			tierlimit._billing_period(n.subject, n.is_account, coalesce(t.length, '1 month'), r.billing_anchor,
				coalesce(r.billing_timezone, 'UTC'), n.first_at) c
		WHERE c.period_start IS NOT NULL;

		-- what has its period is done; of the rest there is only what is after the period
		-- (greatest() ignores NULL)
		UPDATE tierlimit.bill_pending n SET first_at = greatest(n.first_at,
			(SELECT p.period_end FROM tierlimit.bill_period p
				WHERE p.subject = n.subject AND p.is_account = n.is_account AND p.period_start <= n.first_at
				ORDER BY p.period_start DESC LIMIT 1),
			(SELECT b.period_end FROM tierlimit.bill b
				WHERE b.subject = n.subject AND b.is_account = n.is_account AND b.period_start <= n.first_at
				ORDER BY b.period_start DESC LIMIT 1));
		DELETE FROM tierlimit.bill_pending WHERE first_at > last_at;
	END LOOP;
END
$$;

COMMENT ON FUNCTION tierlimit._open_bill_periods() IS 'Open the billing periods that bill_pending asks for';

-- Rows that come late for a period that is open have its bill wait for more of them; those
-- for a period that is on a bill are carried over.
CREATE FUNCTION tierlimit._bill_late_rows(at timestamptz[], key text[], account text[], tier text[],
		error_code integer[], requests integer[], credits bigint[], summed_until timestamptz)
	RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH late AS (
		SELECT coalesce(account, key) AS subject, account IS NOT NULL AS is_account, at, tier,
			CASE error_code WHEN 0 THEN requests ELSE 0 END AS requests,
			CASE error_code WHEN 0 THEN credits ELSE 0 END AS credits,
			CASE error_code WHEN 0 THEN 0 ELSE requests END AS denied
		FROM unnest($1, $2, $3, $4, $5, $6, $7) AS r (at, key, account, tier, error_code, requests, credits)
		WHERE at < $8 AND tierlimit._summed_key(key, tier, error_code) IS NOT NULL),
	-- one that a session is putting down holds for as long as that session likes: the log is
	-- not to wait for it
	free AS MATERIALIZED (
		SELECT p.subject, p.is_account, p.period_start
		FROM tierlimit.bill_period p
		WHERE (p.subject, p.is_account) IN (SELECT subject, is_account FROM late) AND p.period_end <= now()
			AND p.touched_at < now() - interval '1 second'
		FOR NO KEY UPDATE SKIP LOCKED),
	touched AS (
		UPDATE tierlimit.bill_period p SET touched_at = now()
		FROM free f WHERE p.subject = f.subject AND p.is_account = f.is_account AND p.period_start = f.period_start),
	carried AS (
		SELECT * FROM late l
		WHERE EXISTS (SELECT FROM tierlimit.bill b WHERE b.subject = l.subject AND b.is_account = l.is_account
			AND l.at >= b.period_start AND l.at < b.period_end)),
	asked AS (
		INSERT INTO tierlimit.bill_pending (subject, is_account, first_at, last_at, tier)
		SELECT subject, is_account, now(), now(), max(tier) FROM carried GROUP BY 1, 2)
	INSERT INTO tierlimit.bill_carried AS c (subject, is_account, requests, credits, denied)
	SELECT subject, is_account, sum(requests), tierlimit._saturated(sum(credits)), sum(denied) FROM carried GROUP BY 1, 2
	ON CONFLICT (subject, is_account) DO UPDATE SET requests = c.requests + excluded.requests,
		credits = tierlimit._saturated(c.credits::numeric + excluded.credits), denied = c.denied + excluded.denied;
$$;

COMMENT ON FUNCTION tierlimit._bill_late_rows(timestamptz[], text[], text[], text[], integer[], integer[], bigint[], timestamptz) IS 'Note rows that come late for bills';

-- The whole months, days and hours of UTC in a period, which ends when the sums do at the
-- latest: the last ones need not be over, if the sums end in them.  Where the log is gone,
-- an hour is where it starts.
CREATE FUNCTION tierlimit._whole_parts(period_start timestamptz, period_end timestamptz,
		summed_until timestamptz, kept_since timestamptz,
		OUT until timestamptz, OUT first_month timestamptz, OUT end_month timestamptz,
		OUT first_day timestamptz, OUT end_day timestamptz, OUT first_hour timestamptz, OUT end_hour timestamptz)
	LANGUAGE sql STABLE PARALLEL SAFE AS $$
	SELECT least(period_end, summed_until),
		CASE WHEN period_start < '4712-01-01 00:00+00 BC' THEN '4712-01-01 00:00+00 BC'
			WHEN period_start >= summed_until THEN 'infinity'
			WHEN date_trunc('month', period_start, 'UTC') = period_start THEN period_start
			ELSE (date_trunc('month', period_start AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC' END,
		CASE WHEN period_end >= summed_until THEN summed_until WHEN period_end < '4712-01-01 00:00+00 BC' THEN '-infinity'
			ELSE date_trunc('month', period_end, 'UTC') END,
		-- (a day of the session's time zone may have 23 hours)
		date_trunc('day', period_start + interval '24 hours' - interval '1 microsecond', 'UTC'),
		CASE WHEN period_end >= summed_until THEN summed_until ELSE date_trunc('day', period_end, 'UTC') END,
		date_trunc('hour', period_start + interval '1 hour' - interval '1 microsecond', 'UTC'),
		CASE WHEN period_end >= summed_until THEN summed_until WHEN period_end <= kept_since THEN period_end
			ELSE date_trunc('hour', period_end, 'UTC') END;
$$;

COMMENT ON FUNCTION tierlimit._whole_parts(timestamptz, timestamptz, timestamptz, timestamptz) IS 'The parts of a period that sums by months, days and hours have';

-- What the sums have of periods: whole months by months, the days before and after these by
-- days, the hours before and after those by hours, and what is left from the log.  A part
-- that no period has is not looked for.
CREATE FUNCTION tierlimit._period_usage(subjects text[], accounts boolean[],
		starts timestamptz[], ends timestamptz[])
	RETURNS TABLE (subject text, is_account boolean, period_start timestamptz,
		requests numeric, credits numeric, denied numeric, some_tier text, is_only_tier boolean)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' AS $$
DECLARE
	parts text[];
	belongs text;
	is_one boolean;
	state record;
	extent record;
BEGIN
	SELECT s.summed_until, s.kept_since INTO state FROM tierlimit.log_state s;
	SELECT min(w.first_month) AS first_month, max(w.end_month) AS end_month, min(w.first_day) AS first_day, max(w.end_day) AS end_day,
		bool_or(p.account) AS any_account, bool_or(NOT p.account) AS any_key, bool_or(w.first_month < w.end_month) AS any_months,
		bool_or(w.first_day < least(w.first_month, w.end_day) OR greatest(w.end_month, w.first_month) < w.end_day) AS any_days,
		bool_or(w.first_hour < least(w.first_day, w.end_hour) OR greatest(w.end_day, w.first_day) < w.end_hour) AS any_hours,
		bool_or(p.period_start < least(w.first_hour, w.until) OR greatest(w.end_hour, w.first_hour) < w.until) AS any_rows
	INTO extent
	-- (mostly, many have the same period)
	FROM (SELECT DISTINCT p.period_start, p.period_end, p.account
			FROM unnest(accounts, starts, ends) AS p (account, period_start, period_end)) p,
		tierlimit._whole_parts(p.period_start, p.period_end, state.summed_until, state.kept_since) w;
	FOR belongs, is_one IN VALUES ('p.subject = u.key AND u.account IS NULL AND NOT p.is_account', extent.any_key),
			('p.subject = u.account AND p.is_account', extent.any_account) LOOP
		CONTINUE WHEN is_one IS NOT TRUE;
		IF extent.any_months THEN
			parts := parts || format('SELECT p.subject, p.is_account, p.period_start, u.tier, u.requests, u.credits, u.denied
				FROM p JOIN tierlimit.usage_monthly u ON %s AND u.month >= p.first_month AND u.month < p.end_month
				WHERE u.month >= %L AND u.month < %L', belongs, extent.first_month, extent.end_month);
		END IF;
		IF extent.any_days THEN
			parts := parts || format('SELECT p.subject, p.is_account, p.period_start, u.tier, u.requests, u.credits, u.denied
				FROM p JOIN tierlimit.usage_daily u ON %s AND (u.day >= p.first_day AND u.day < least(p.first_month, p.end_day)
					OR u.day >= greatest(p.end_month, p.first_month) AND u.day < p.end_day)
				WHERE u.day >= %L AND u.day < %L', belongs, extent.first_day, extent.end_day);
		END IF;
		IF extent.any_hours THEN
			parts := parts || format('SELECT p.subject, p.is_account, p.period_start, u.tier, u.requests, u.credits, u.denied
				FROM p, LATERAL (VALUES (p.first_hour, least(p.first_day, p.end_hour)),
						(greatest(p.end_day, p.first_day), p.end_hour)) e (since, until),
					LATERAL (SELECT * FROM tierlimit.usage_hourly u
						WHERE %s AND u.hour >= e.since AND u.hour < e.until OFFSET 0) u
				WHERE e.since < e.until', belongs);
		END IF;
		IF extent.any_rows THEN
			parts := parts || format('SELECT p.subject, p.is_account, p.period_start, u.tier, CASE u.error_code WHEN 0 THEN u.requests ELSE 0 END,
					CASE u.error_code WHEN 0 THEN u.credits ELSE 0 END, CASE u.error_code WHEN 0 THEN 0 ELSE u.requests END
				FROM p, LATERAL (VALUES (p.period_start, least(p.first_hour, p.until)),
						(greatest(p.end_hour, p.first_hour), p.until)) e (since, until),
					LATERAL (SELECT * FROM tierlimit.request_log u
						WHERE %s AND u.at >= e.since AND u.at < e.until
							AND tierlimit._summed_key(u.key, u.tier, u.error_code) IS NOT NULL OFFSET 0) u
				WHERE e.since < e.until AND e.since >= $6', belongs);
		END IF;
	END LOOP;
	IF parts IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY EXECUTE format('WITH whole AS MATERIALIZED (
			SELECT * FROM (SELECT DISTINCT p.period_start, p.period_end FROM unnest($3, $4) AS p (period_start, period_end)) p,
				tierlimit._whole_parts(p.period_start, p.period_end, $5, $6)),
		p AS MATERIALIZED (
			SELECT p.subject, p.is_account, w.*
			FROM unnest($1, $2, $3, $4) AS p (subject, is_account, period_start, period_end)
				JOIN whole w USING (period_start, period_end))
		SELECT subject, is_account, period_start, sum(requests)::numeric, sum(credits)::numeric, sum(denied)::numeric,
			max(tier COLLATE "C"), min(tier COLLATE "C") = max(tier COLLATE "C")
		FROM (%s) x GROUP BY 1, 2, 3', array_to_string(parts, ' UNION ALL '))
	USING subjects, accounts, starts, ends, state.summed_until, state.kept_since;
END
$$;

COMMENT ON FUNCTION tierlimit._period_usage(text[], boolean[], timestamptz[], timestamptz[]) IS 'What subjects have used in periods, as far as it is summed up, and under which tier';

-- The tier of the last call before a time, of a subject that is not registered.
CREATE FUNCTION tierlimit._last_tier(subject text, is_account boolean, before timestamptz) RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	last timestamptz := CASE WHEN is_account
		THEN (SELECT max(hour) FROM tierlimit.usage_hourly u WHERE u.account = $1 AND u.hour < before)
		ELSE (SELECT max(hour) FROM tierlimit.usage_hourly u WHERE u.key = $1 AND u.account IS NULL AND u.hour < before) END;
BEGIN
	-- (where the log is gone, all that is known is the hour)
	RETURN coalesce(
		(SELECT tier FROM tierlimit.request_log l
		WHERE at >= last AND at < least(before, last + interval '1 hour') AND l.tier IS NOT NULL AND coalesce(l.account, l.key) = $1 AND (l.account IS NOT NULL) = $2
		ORDER BY at DESC LIMIT 1),
		(SELECT max(tier) FROM tierlimit.usage_hourly u
		WHERE hour = last AND coalesce(u.account, u.key) = $1 AND (u.account IS NOT NULL) = $2));
END
$$;

COMMENT ON FUNCTION tierlimit._last_tier(text, boolean, timestamptz) IS 'The tier of the last call before a time';

-- The rows of a bill.
CREATE FUNCTION tierlimit._bill_lines(keys bigint, price numeric, requests numeric, credits numeric, denied numeric,
		requests_included bigint, requests_price numeric, credits_included bigint, credits_price numeric)
	RETURNS TABLE (unit text, used bigint, denied bigint, included bigint, overage bigint, unit_price numeric, amount numeric)
	LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
	SELECT u.unit, tierlimit._saturated(u.used), denied::bigint, u.included, tierlimit._saturated(o.overage), u.unit_price,
		coalesce(o.overage * u.unit_price, 0)
	FROM (VALUES ('requests', requests, requests_included, requests_price),
			('credits', credits, credits_included, credits_price)) u (unit, used, included, unit_price),
		-- (where nothing is included, nothing is over)
		LATERAL (SELECT greatest(u.used - u.included, 0) AS overage) o
	WHERE requests <> 0 OR credits <> 0 OR denied <> 0 OR (keys > 0 AND price IS NOT NULL)
	UNION ALL
	SELECT 'period', 1, 0, NULL, 0, price, price WHERE keys > 0 AND price IS NOT NULL;
$$;

COMMENT ON FUNCTION tierlimit._bill_lines(bigint, numeric, numeric, numeric, numeric, bigint, numeric, bigint, numeric) IS 'The rows of a bill; none for whoever has neither called nor a price';

-- What holds now for periods that are over by this time, and were not touched since that
-- time, holds at their end: put it down, for so many.
CREATE FUNCTION tierlimit._freeze_bills(over_at timestamptz, untouched_since timestamptz, max_periods bigint DEFAULT NULL)
	RETURNS void LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH over AS MATERIALIZED (
		SELECT subject, is_account, period_start, period_end FROM tierlimit.bill_period
		WHERE NOT frozen AND period_end <= over_at AND touched_at < untouched_since
		ORDER BY period_end, subject, is_account LIMIT max_periods FOR UPDATE),
	registered AS MATERIALIZED (
		SELECT o.*, r.tier, r.keys, r.created_at FROM over o LEFT JOIN tierlimit._billed_subject r USING (subject, is_account)),
	unregistered AS (
		SELECT u.* FROM (SELECT array_agg(subject) AS subjects, array_agg(is_account) AS accounts, array_agg(period_start) AS starts,
				array_agg(period_end) AS ends FROM registered WHERE tier IS NULL) x,
			tierlimit._period_usage(x.subjects, x.accounts, x.starts, x.ends) u)
	UPDATE tierlimit.bill_period p SET frozen = true, tier = n.tier, keys = n.keys,
		price = CASE WHEN p.is_whole AND n.created_at < n.period_end THEN t.price END,
		requests_included = t.requests_included, requests_price = t.requests_price,
		credits_included = t.credits_included, credits_price = t.credits_price
	FROM (SELECT r.subject, r.is_account, r.period_start, r.period_end, r.created_at, coalesce(r.keys, 0) AS keys,
			CASE WHEN r.tier IS NOT NULL THEN r.tier WHEN u.is_only_tier THEN u.some_tier
				ELSE tierlimit._last_tier(r.subject, r.is_account, r.period_end) END AS tier
		FROM registered r LEFT JOIN unregistered u USING (subject, is_account, period_start)) n
		LEFT JOIN tierlimit._billed_tier t ON t.tier = n.tier
	WHERE p.subject = n.subject AND p.is_account = n.is_account AND p.period_start = n.period_start;
$$;

COMMENT ON FUNCTION tierlimit._freeze_bills(timestamptz, timestamptz, bigint) IS 'Put down what holds at the end of billing periods';

-- Whoever changes what bills depend on puts down first what held at the end of the periods
-- that are over.
CREATE FUNCTION tierlimit._before_change() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF EXISTS (SELECT FROM tierlimit.bill_period WHERE NOT frozen AND period_end <= tierlimit._now()) THEN
		PERFORM tierlimit._freeze_bills(tierlimit._now(), 'infinity');
	END IF;
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END
$$;

COMMENT ON FUNCTION tierlimit._before_change() IS 'Trigger: bills of periods that are over do not change any more';

-- Logical replication fires those of rows only, and those of TRUNCATE.
DO $$
DECLARE
	tab text;
BEGIN
	FOREACH tab IN ARRAY ARRAY['tier', 'tier_limit', 'api_key'] LOOP
		EXECUTE format('CREATE TRIGGER bills_first BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON tierlimit.%I
			FOR EACH STATEMENT EXECUTE FUNCTION tierlimit._before_change()', tab);
		EXECUTE format('CREATE TRIGGER bills_first_replicated BEFORE INSERT OR UPDATE OR DELETE ON tierlimit.%I
			FOR EACH ROW EXECUTE FUNCTION tierlimit._before_change()', tab);
		EXECUTE format('ALTER TABLE tierlimit.%I ENABLE ALWAYS TRIGGER bills_first', tab);
		EXECUTE format('ALTER TABLE tierlimit.%I ENABLE REPLICA TRIGGER bills_first_replicated', tab);
	END LOOP;
END
$$;

-- Periods that go by another calendar than their subject does now, since its tier, anchor
-- or time zone was changed: the one that runs is the new calendar's, and what is over before
-- that stays together.  So nothing is sold for a time before the change: a part costs no
-- price.
CREATE FUNCTION tierlimit._reopen_changed_periods() RETURNS void
	LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	WITH changed AS (
		DELETE FROM tierlimit.bill_period p
		USING tierlimit._billed_subject r LEFT JOIN tierlimit._billed_tier t USING (tier)
		WHERE r.subject = p.subject AND r.is_account = p.is_account AND NOT p.frozen AND p.period_end > now()
			AND (p.length, p.anchor, p.timezone) IS DISTINCT FROM (t.length, r.billing_anchor, r.billing_timezone)
		RETURNING p.subject, p.is_account, p.period_start, t.length, r.billing_anchor AS anchor, r.billing_timezone AS timezone),
	cut AS MATERIALIZED (
		SELECT c.*, r.period_start AS cut_at FROM changed c, tierlimit._calendar_period(c.length, c.anchor, c.timezone, now()) r),
	part AS (
		INSERT INTO tierlimit.bill_period (subject, is_account, period_start, period_end, length, anchor, timezone, is_whole)
		SELECT subject, is_account, period_start, cut_at, length, anchor, timezone, false FROM cut WHERE period_start < cut_at)
	INSERT INTO tierlimit.bill_pending (subject, is_account, first_at, last_at)
	SELECT subject, is_account, greatest(period_start, cut_at), greatest(period_start, cut_at) FROM cut;
$$;

COMMENT ON FUNCTION tierlimit._reopen_changed_periods() IS 'Have billing periods follow a changed calendar';

-- After a restore, no period is open: make those of all that is in the sums.
CREATE FUNCTION tierlimit._open_all_periods() RETURNS void
	LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO tierlimit.bill_pending (subject, is_account, first_at, last_at, tier)
	SELECT coalesce(account, key), account IS NOT NULL, min(day), max(day) + interval '24 hours' - interval '1 microsecond', max(tier)
	FROM tierlimit.usage_daily WHERE key IS NOT NULL GROUP BY 1, 2, date_trunc('month', day, 'UTC')
	UNION ALL SELECT subject, is_account, now(), now(), NULL FROM tierlimit.bill_carried;
$$;

COMMENT ON FUNCTION tierlimit._open_all_periods() IS 'Have bill_pending ask for the periods of all sums, and of what was carried over';

-- Who pays a price has a period also without a call: whoever was registered since the last
-- time, from then on.  Others without a period had no price the last time; these have one
-- from a time on that the caller says.
CREATE FUNCTION tierlimit._open_priced_periods(since timestamptz, others_from timestamptz) RETURNS void
	LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO tierlimit.bill_pending (subject, is_account, first_at, last_at)
	SELECT r.subject, r.is_account, n.at, n.at
	FROM tierlimit._billed_subject r JOIN tierlimit._billed_tier t USING (tier),
		tierlimit._calendar_period(t.length, r.billing_anchor, r.billing_timezone,
			CASE WHEN r.created_at >= since THEN r.created_at ELSE others_from END) c,
		LATERAL (SELECT greatest(c.period_start, max(b.period_end)) AS at FROM tierlimit.bill b
			WHERE b.subject = r.subject AND b.is_account = r.is_account) n
	WHERE t.price IS NOT NULL AND r.keys > 0 AND r.created_at <= now()
		AND NOT EXISTS (SELECT FROM tierlimit.bill_period p WHERE p.subject = r.subject AND p.is_account = r.is_account);
$$;

COMMENT ON FUNCTION tierlimit._open_priced_periods(timestamptz, timestamptz) IS 'Have bill_pending ask for the periods of those who pay a price';

-- Where none was opened yet, as after a restore, open the periods of all that is in the sums;
-- and of those who pay a price, from where the sums end: that is when the dump was taken, so
-- it is done before they go on.
CREATE FUNCTION tierlimit._begin_bills() RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	since timestamptz := summed_until FROM tierlimit.log_state;
BEGIN
	IF since IS NULL OR EXISTS (SELECT FROM tierlimit.bill_state) THEN
		RETURN;
	END IF;
	INSERT INTO tierlimit.bill_state SELECT now();
	PERFORM tierlimit._open_all_periods();
	PERFORM tierlimit._open_bill_periods();
	PERFORM tierlimit._open_priced_periods(since, since);
	PERFORM tierlimit._open_bill_periods();
END
$$;

COMMENT ON FUNCTION tierlimit._begin_bills() IS 'Open all billing periods, if none was opened yet';

-- Write bills of periods that are over and summed up, some at a time.  A period for which
-- rows came late waits for a while: there may be more.  Who pays a price goes on with the
-- next period.  Returns whether there is more to do.
CREATE FUNCTION tierlimit._keep_bills() RETURNS boolean
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
	quiet_since timestamptz := now() - interval '20 seconds';
	subjects text[];
	accounts boolean[];
	starts timestamptz[];
	ends timestamptz[];
BEGIN
	LOCK TABLE ONLY tierlimit.request_log IN SHARE ROW EXCLUSIVE MODE;
	IF NOT EXISTS (SELECT FROM tierlimit.log_state) THEN
		RETURN false;
	END IF;
	PERFORM tierlimit._begin_bills();
	IF (SELECT opened_until <= now() - interval '10 minutes' FROM tierlimit.bill_state) THEN
		PERFORM tierlimit._open_priced_periods(opened_until, now()) FROM tierlimit.bill_state;
		PERFORM tierlimit._reopen_changed_periods();
		UPDATE tierlimit.bill_state SET opened_until = now();
	END IF;
	PERFORM tierlimit._open_bill_periods();
	PERFORM tierlimit._freeze_bills(now(), quiet_since, 10000);

	SELECT array_agg(subject), array_agg(is_account), array_agg(period_start), array_agg(period_end)
	INTO subjects, accounts, starts, ends
	FROM (SELECT p.subject, p.is_account, p.period_start, p.period_end
		FROM tierlimit.bill_period p, tierlimit.log_state s
		WHERE p.frozen AND p.period_end <= s.summed_until AND p.touched_at < quiet_since
		ORDER BY p.period_end, p.subject LIMIT 10000) x;
	IF subjects IS NULL THEN
		RETURN false;
	END IF;
	WITH over AS (
		DELETE FROM tierlimit.bill_period p USING unnest(subjects, accounts, starts) AS x (subject, is_account, period_start)
		WHERE p.subject = x.subject AND p.is_account = x.is_account AND p.period_start = x.period_start
		RETURNING p.*),
	carried AS (
		DELETE FROM tierlimit.bill_carried c USING (SELECT subject, is_account, min(period_start) AS period_start FROM over GROUP BY 1, 2) o
		WHERE c.subject = o.subject AND c.is_account = o.is_account
		RETURNING c.*, o.period_start)
	INSERT INTO tierlimit.bill
	SELECT o.subject, o.keys, o.tier, o.period_start, o.period_end, l.unit, l.used, l.denied, l.included, l.overage,
		l.unit_price, l.amount, o.is_account
	FROM over o
		LEFT JOIN tierlimit._period_usage(subjects, accounts, starts, ends) u USING (subject, is_account, period_start)
		LEFT JOIN carried c USING (subject, is_account, period_start),
		tierlimit._bill_lines(o.keys, o.price, coalesce(u.requests, 0) + coalesce(c.requests, 0),
			coalesce(u.credits, 0) + coalesce(c.credits, 0), coalesce(u.denied, 0) + coalesce(c.denied, 0),
			o.requests_included, o.requests_price, o.credits_included, o.credits_price) l;

	INSERT INTO tierlimit.bill_pending (subject, is_account, first_at, last_at)
	SELECT x.subject, x.is_account, x.period_end, x.period_end
	FROM (SELECT subject, is_account, max(period_end) AS period_end
			FROM unnest(subjects, accounts, ends) AS x (subject, is_account, period_end) GROUP BY 1, 2) x
		JOIN tierlimit._billed_subject r USING (subject, is_account) JOIN tierlimit._billed_tier t USING (tier),
		tierlimit._calendar_period(t.length, r.billing_anchor, r.billing_timezone, x.period_end) c
	WHERE t.price IS NOT NULL AND r.keys > 0 AND c.period_end > r.created_at;
	PERFORM tierlimit._open_bill_periods();
	RETURN true;
END
$$;

COMMENT ON FUNCTION tierlimit._keep_bills() IS 'Open billing periods, and write some bills of those that are over; true: there may be more';

--
-- Reports
--

-- They run as the owner, so that who may call them needs no right on what they read; each
-- waits until what was decided before is in the log.  In a transaction that is REPEATABLE
-- READ they see what that sees.

CREATE FUNCTION tierlimit._bucket(at timestamptz, step interval, timezone text) RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'tierlimit_bucket_1_0' LANGUAGE C STABLE STRICT PARALLEL SAFE;

COMMENT ON FUNCTION tierlimit._bucket(timestamptz, interval, text) IS 'The start of the step that a time is in, by the wall clock of a zone';

-- From where a report reads which time, of the hours that have a sum: days and hours, each
-- of which is in one bucket, have theirs; the rest is read from the log, row by row.  The
-- last hour may not be over: its sum is that of the time until the sums end.  Where the log
-- is gone, an hour is where it starts.
CREATE FUNCTION tierlimit._report_spans("from" timestamptz, "to" timestamptz, step interval, timezone text)
	RETURNS TABLE (source text, since timestamptz, until timestamptz, bucket timestamptz)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH state AS MATERIALIZED (
		SELECT coalesce(max(summed_until), '-infinity') AS summed_until,
			date_trunc('hour', coalesce(max(kept_since), '-infinity'), 'UTC') AS kept_since
		FROM tierlimit.log_state),
	summed AS MATERIALIZED (
		SELECT DISTINCT hour AS begins, least(hour + interval '1 hour', summed_until) AS ends,
			hour + interval '1 hour' <= kept_since AS is_only_sum
		FROM tierlimit.usage_by_code, state
		WHERE hour > "from" - interval '1 hour' AND hour < "to"),
	hours AS MATERIALIZED (
		SELECT h.*, b.bucket,
			h.begins >= "from" AND (h.is_only_sum OR h.ends <= "to"
				AND b.bucket = tierlimit._bucket(h.ends - interval '1 microsecond', step, timezone)) AS is_whole
		FROM summed h, LATERAL (SELECT tierlimit._bucket(h.begins, step, timezone) AS bucket) b),
	days AS MATERIALIZED (
		SELECT day, max(ends) AS ends, min(bucket) AS bucket
		FROM (SELECT *, date_trunc('day', begins, 'UTC') AS day FROM hours) h
		GROUP BY day HAVING bool_and(is_whole) AND min(bucket) = max(bucket)
			AND day >= "from" AND least(day + interval '24 hours', (SELECT summed_until FROM state)) <= "to"),
	-- the time of hours that follow each other is read at once
	rest AS (
		SELECT greatest(begins, "from") AS begins, least(ends, "to") AS ends FROM hours WHERE NOT is_whole AND NOT is_only_sum
		UNION ALL
		SELECT greatest(summed_until, "from"), "to" FROM state WHERE summed_until < "to")
	SELECT 'day', day, ends, bucket FROM days
	UNION ALL
	SELECT 'hour', h.begins, h.ends, h.bucket FROM hours h
	WHERE is_whole AND NOT EXISTS (SELECT FROM days d WHERE d.day = date_trunc('day', h.begins, 'UTC'))
	UNION ALL
	SELECT 'log', min(begins), max(ends), NULL
	FROM (SELECT *, count(*) FILTER (WHERE is_first) OVER (ORDER BY begins) AS island
		FROM (SELECT *, begins IS DISTINCT FROM lag(ends) OVER (ORDER BY begins) AS is_first FROM rest) r) i
	GROUP BY island HAVING min(begins) < max(ends);
$$;

COMMENT ON FUNCTION tierlimit._report_spans(timestamptz, timestamptz, interval, text) IS 'Where a report reads what';

CREATE FUNCTION tierlimit._require_range("from" timestamptz, "to" timestamptz) RETURNS void
	LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF "from" IS NULL OR "to" IS NULL THEN
		RAISE SQLSTATE '22004' USING MESSAGE = 'a report needs a time from which and a time to which';
	ELSIF "from" > "to" THEN
		RAISE SQLSTATE '22023' USING MESSAGE = 'a report''s range ends before it begins',
			DETAIL = format('It is from %s to %s.', "from", "to");
	END IF;
END
$$;

COMMENT ON FUNCTION tierlimit._require_range(timestamptz, timestamptz) IS 'Raise an ERROR unless this is a range';

-- What sums are of which time, and what they are, is of one snapshot.
CREATE FUNCTION tierlimit._usage_report(since timestamptz, until timestamptz, step interval, one_key text, zone text)
	RETURNS TABLE (bucket timestamptz, key text, account text, tier text, endpoint text,
		requests bigint, credits bigint, denied bigint)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' AS $_$
#variable_conflict use_column
DECLARE
	days timestamptz[];
	day_buckets timestamptz[];
	hours timestamptz[];
	hour_buckets timestamptz[];
	parts text[];
	condition text := CASE WHEN one_key IS NULL THEN '' ELSE format(' AND u.key = %L', one_key) END;
BEGIN
	PERFORM tierlimit._require_range($1, $2);
	PERFORM tierlimit._bucket(now(), coalesce($3, '0'), coalesce($5, ''));
	SELECT array_agg(since) FILTER (WHERE source = 'day'), array_agg(bucket) FILTER (WHERE source = 'day'),
		array_agg(since) FILTER (WHERE source = 'hour'), array_agg(bucket) FILTER (WHERE source = 'hour'),
		array_agg(format('SELECT tierlimit._bucket(at, $5, $6), tierlimit._summed_key(key, tier, error_code), account, tier,
				tierlimit._endpoint_pattern(endpoint), CASE error_code WHEN 0 THEN requests ELSE 0 END,
				CASE error_code WHEN 0 THEN credits ELSE 0 END, CASE error_code WHEN 0 THEN 0 ELSE requests END
			FROM tierlimit.request_log u WHERE at >= %L AND at < %L%s', since, until,
			CASE WHEN one_key IS NOT NULL THEN condition || ' AND (error_code = 0 OR tier IS NOT NULL)' END)) FILTER (WHERE source = 'log')
	INTO days, day_buckets, hours, hour_buckets, parts
	FROM tierlimit._report_spans($1, $2, $3, $5);

	-- (the bounds are for the plan: an index of ranges, or one of keys)
	IF days IS NOT NULL THEN
		parts := parts || format('SELECT s.bucket, u.key, u.account, u.tier, u.endpoint, u.requests, u.credits, u.denied
			FROM unnest($1, $2) s (since, bucket) JOIN tierlimit.usage_daily u ON u.day = s.since
			WHERE u.day BETWEEN %L AND %L%s', (SELECT min(d) FROM unnest(days) d), (SELECT max(d) FROM unnest(days) d), condition);
	END IF;
	IF hours IS NOT NULL THEN
		parts := parts || format('SELECT s.bucket, u.key, u.account, u.tier, u.endpoint, u.requests, u.credits, u.denied
			FROM unnest($3, $4) s (since, bucket) JOIN tierlimit.usage_hourly u ON u.hour = s.since
			WHERE u.hour BETWEEN %L AND %L%s', (SELECT min(h) FROM unnest(hours) h), (SELECT max(h) FROM unnest(hours) h), condition);
	END IF;
	IF parts IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY EXECUTE format('SELECT bucket, key, account, tier, endpoint,
			tierlimit._saturated(sum(requests)), tierlimit._saturated(sum(credits)), tierlimit._saturated(sum(denied))
		FROM (%s) AS x (bucket, key, account, tier, endpoint, requests, credits, denied)
		GROUP BY 1, 2, 3, 4, 5 HAVING sum(requests) <> 0 OR sum(credits) <> 0 OR sum(denied) <> 0
		ORDER BY 1, key COLLATE "C", account COLLATE "C", tier COLLATE "C", endpoint COLLATE "C"',
		array_to_string(parts, ' UNION ALL '))
	USING days, day_buckets, hours, hour_buckets, $3, $5;
END
$_$;

COMMENT ON FUNCTION tierlimit._usage_report(timestamptz, timestamptz, interval, text, text) IS 'The work of usage_report()';

CREATE FUNCTION tierlimit.usage_report("from" timestamptz, "to" timestamptz DEFAULT now(),
		step interval DEFAULT '1 day', key text DEFAULT NULL, timezone text DEFAULT 'UTC')
	RETURNS TABLE (bucket timestamptz, key text, account text, tier text, endpoint text,
		requests bigint, credits bigint, denied bigint)
	LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
	SELECT tierlimit.log_flush();
	SELECT * FROM tierlimit._usage_report($1, $2, $3, $4, $5);
$$;

COMMENT ON FUNCTION tierlimit.usage_report(timestamptz, timestamptz, interval, text, text) IS 'Calls, credits and denials by steps of time, of all keys or of one';

CREATE FUNCTION tierlimit.usage_chart(key text, step interval DEFAULT '1 hour', steps integer DEFAULT 24)
	RETURNS TABLE (bucket timestamptz, requests bigint, denied bigint, chart text)
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
	zone text := current_setting('TimeZone');
	since timestamptz;
BEGIN
	IF $1 IS NULL OR $2 IS NULL OR $3 IS NULL OR $3 NOT BETWEEN 1 AND 10000 THEN
		RAISE SQLSTATE '22023' USING MESSAGE = 'a chart needs a key, a step, and 1 to 10000 steps';
	END IF;
	RETURN QUERY
	WITH RECURSIVE buckets AS (
		SELECT tierlimit._bucket(tierlimit._now(), $2, zone) AS bucket, 1 AS n
		UNION ALL
		SELECT tierlimit._bucket(bucket - interval '1 microsecond', $2, zone), n + 1 FROM buckets WHERE n < $3),
	bars AS (
		SELECT b.bucket, coalesce(sum(r.requests), 0)::bigint AS requests, coalesce(sum(r.denied), 0)::bigint AS denied
		FROM buckets b
			LEFT JOIN tierlimit.usage_report((SELECT min(bucket) FROM buckets), 'infinity', $2, $1, zone) r USING (bucket)
		GROUP BY 1),
	-- in eighths of a character, 40 of which are the longest bar
	sized AS (
		SELECT *, CASE WHEN requests > 0 THEN greatest(round(320.0 * requests / max(requests) OVER ()), 1) ELSE 0 END::integer AS eighths
		FROM bars)
	SELECT bucket, requests, denied,
		repeat(U&'\2588', eighths / 8) || substr(U&'\258F\258E\258D\258C\258B\258A\2589', eighths % 8, (eighths % 8 > 0)::integer)
	FROM sized ORDER BY bucket;
END
$$;

COMMENT ON FUNCTION tierlimit.usage_chart(text, interval, integer) IS 'The calls of a key, with a bar for each of the last steps';

-- The running bills: of periods that are not on a bill yet.  What they are of the sums, and
-- what is in the log since these end.  A period whose subject goes by another calendar now
-- is made here as the log writer will make it.
CREATE FUNCTION tierlimit._running_bills(at timestamptz, summed_until timestamptz)
	RETURNS TABLE (subject text, keys bigint, tier text, period_start timestamptz, period_end timestamptz,
		unit text, used bigint, denied bigint, included bigint, overage bigint, unit_price numeric, amount numeric)
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' AS $_$
BEGIN
	RETURN QUERY EXECUTE format($sql$
		WITH tiers AS MATERIALIZED (SELECT * FROM tierlimit._billed_tier),
		tail AS MATERIALIZED (
			SELECT coalesce(account, key) AS subject, account IS NOT NULL AS is_account, at, tier,
				CASE error_code WHEN 0 THEN requests ELSE 0 END AS requests,
				CASE error_code WHEN 0 THEN credits ELSE 0 END AS credits,
				CASE error_code WHEN 0 THEN 0 ELSE requests END AS denied
			FROM tierlimit.request_log
			WHERE at >= %1$L AND at >= (SELECT coalesce(max(summed_until), '-infinity') FROM tierlimit.log_state)
				AND tierlimit._summed_key(key, tier, error_code) IS NOT NULL),
		candidate AS (
			SELECT DISTINCT subject, is_account FROM (
				SELECT subject, is_account FROM tierlimit.bill_period WHERE period_start <= $1 AND period_end > $1
				UNION ALL SELECT subject, is_account FROM tail
				-- (whose calendar was changed)
				UNION ALL SELECT r.subject, r.is_account FROM tierlimit.bill_period p
					JOIN tierlimit._billed_subject r ON r.subject = p.subject AND r.is_account = p.is_account
					JOIN tiers t ON t.tier = r.tier
					WHERE NOT p.frozen AND (p.length, p.anchor, p.timezone) IS DISTINCT FROM (t.length, r.billing_anchor, r.billing_timezone)
				-- (who pays a price from now on; before, there is a period)
				UNION ALL SELECT r.subject, r.is_account FROM tierlimit._billed_subject r JOIN tiers t USING (tier)
					WHERE t.price IS NOT NULL AND r.keys > 0 AND NOT EXISTS (SELECT FROM tierlimit.bill_period p
						WHERE p.subject = r.subject AND p.is_account = r.is_account AND p.period_end > $1)
				-- (after a restore, until the log writer has opened the periods)
				UNION ALL SELECT coalesce(account, key), account IS NOT NULL FROM tierlimit.usage_daily
					WHERE key IS NOT NULL AND NOT EXISTS (SELECT FROM tierlimit.bill_state)) x),
		billed AS MATERIALIZED (
			SELECT DISTINCT subject, is_account FROM tierlimit.bill WHERE period_start <= $1 AND period_end > $1),
		term AS MATERIALIZED (
			SELECT c.subject, c.is_account, p.period_start, p.period_end, coalesce(p.frozen, false) AS frozen,
				p.subject IS NOT NULL AND (p.frozen OR p.period_end <= tierlimit._now() OR r.subject IS NULL
					OR (p.length, p.anchor, p.timezone) IS NOT DISTINCT FROM (t.length, r.billing_anchor, r.billing_timezone)) AS fits,
				coalesce(r.billing_timezone, 'UTC') AS timezone, r.billing_anchor AS anchor, r.subject IS NOT NULL AS registered,
				CASE WHEN p.frozen THEN p.tier ELSE r.tier END AS tier,
				CASE WHEN p.frozen THEN p.keys ELSE coalesce(r.keys, 0) END AS keys,
				r.created_at, p.is_whole, p.requests_included, p.requests_price, p.credits_included, p.credits_price, p.price
			FROM candidate c
				LEFT JOIN tierlimit.bill_period p ON p.subject = c.subject AND p.is_account = c.is_account
					AND p.period_start <= $1 AND p.period_end > $1
				LEFT JOIN tierlimit._billed_subject r ON r.subject = c.subject AND r.is_account = c.is_account
				LEFT JOIN tiers t ON t.tier = r.tier
			WHERE NOT EXISTS (SELECT FROM billed b WHERE b.subject = c.subject AND b.is_account = c.is_account)),
		named AS MATERIALIZED (
			SELECT m.*, l.tier AS last_tier
			FROM term m LEFT JOIN (
				SELECT DISTINCT ON (m.subject, m.is_account) m.subject, m.is_account, l.tier
				FROM term m JOIN tail l ON l.subject = m.subject AND l.is_account = m.is_account AND l.tier IS NOT NULL
					AND l.at >= coalesce(m.period_start, '-infinity') AND l.at < coalesce(m.period_end, 'infinity')
				WHERE m.tier IS NULL ORDER BY m.subject, m.is_account, l.at DESC) l
				ON l.subject = m.subject AND l.is_account = m.is_account),
		placed AS MATERIALIZED (
			SELECT n.*, n.period_start AS opened_at,
				CASE WHEN n.fits THEN ROW(n.period_start, n.period_end, n.is_whole)::tierlimit._billing_span
					ELSE tierlimit._changed_period(n.subject, n.is_account, coalesce(t.length, '1 month'), n.anchor, n.timezone,
						$1, n.period_start) END AS period
			FROM named n LEFT JOIN tiers t ON t.tier = coalesce(n.tier, n.last_tier)),
		due AS MATERIALIZED (
			SELECT subject, is_account, frozen, tier, last_tier, keys, created_at, opened_at, price, requests_included, requests_price,
				credits_included, credits_price, (period).period_start, (period).period_end, (period).is_whole
			FROM placed WHERE (period).period_start IS NOT NULL),
		summed AS (
			SELECT u.* FROM (SELECT array_agg(subject) AS subjects, array_agg(is_account) AS accounts,
					array_agg(period_start) AS starts, array_agg(period_end) AS ends FROM due) d,
				tierlimit._period_usage(d.subjects, d.accounts, d.starts, d.ends) u),
		since AS (
			SELECT d.subject, d.is_account, sum(l.requests) AS requests, sum(l.credits) AS credits, sum(l.denied) AS denied
			FROM due d JOIN tail l ON l.subject = d.subject AND l.is_account = d.is_account
				AND l.at >= d.period_start AND l.at < d.period_end GROUP BY 1, 2),
		-- (where a period is made anew of several, the first of these has it)
		carried AS (
			SELECT c.* FROM tierlimit.bill_carried c JOIN due d USING (subject, is_account)
			WHERE d.period_start <= d.opened_at AND d.opened_at = (SELECT min(p.period_start) FROM tierlimit.bill_period p
				WHERE p.subject = c.subject AND p.is_account = c.is_account))
		SELECT d.subject, d.keys, x.tier, d.period_start, d.period_end, l.*
		FROM due d
			LEFT JOIN summed u USING (subject, is_account, period_start)
			LEFT JOIN since s USING (subject, is_account)
			LEFT JOIN carried c USING (subject, is_account)
			CROSS JOIN LATERAL (SELECT CASE WHEN d.tier IS NOT NULL OR d.frozen THEN d.tier WHEN d.last_tier IS NOT NULL THEN d.last_tier
				WHEN u.is_only_tier THEN u.some_tier ELSE tierlimit._last_tier(d.subject, d.is_account, d.period_end) END AS tier) x
			LEFT JOIN tiers t ON t.tier = x.tier,
			tierlimit._bill_lines(d.keys,
				-- (one that is over, and was not opened for its price, has none)
				CASE WHEN d.frozen THEN d.price
					WHEN d.is_whole AND d.period_end > d.created_at AND (d.opened_at IS NOT NULL OR d.period_end > (
						SELECT coalesce((SELECT opened_until FROM tierlimit.bill_state), (SELECT summed_until FROM tierlimit.log_state), tierlimit._now())))
						THEN t.price END,
				coalesce(u.requests, 0) + coalesce(s.requests, 0) + coalesce(c.requests, 0),
				coalesce(u.credits, 0) + coalesce(s.credits, 0) + coalesce(c.credits, 0),
				coalesce(u.denied, 0) + coalesce(s.denied, 0) + coalesce(c.denied, 0),
				CASE WHEN d.frozen THEN d.requests_included ELSE t.requests_included END,
				CASE WHEN d.frozen THEN d.requests_price ELSE t.requests_price END,
				CASE WHEN d.frozen THEN d.credits_included ELSE t.credits_included END,
				CASE WHEN d.frozen THEN d.credits_price ELSE t.credits_price END) l$sql$, $2)
	USING $1;
END
$_$;

COMMENT ON FUNCTION tierlimit._running_bills(timestamptz, timestamptz) IS 'Bills of periods that are not written yet';

CREATE FUNCTION tierlimit.billing_report(at timestamptz DEFAULT now())
	RETURNS TABLE (subject text, keys bigint, tier text, period_start timestamptz, period_end timestamptz,
		unit text, used bigint, denied bigint, included bigint, overage bigint, unit_price numeric, amount numeric)
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
#variable_conflict use_column
BEGIN
	IF $1 IS NULL OR NOT isfinite($1) THEN
		RAISE SQLSTATE '22023' USING MESSAGE = 'a bill needs a time that its period contains';
	END IF;
	PERFORM tierlimit.log_flush();
	-- a time that is before all open periods has bills only
	IF EXISTS (SELECT FROM tierlimit.bill b WHERE b.period_start <= $1 AND b.period_end > $1)
		AND EXISTS (SELECT FROM tierlimit.bill_state)
		AND NOT EXISTS (SELECT FROM tierlimit.bill_period p WHERE p.period_start <= $1) THEN
		RETURN QUERY
		SELECT b.subject, b.keys, b.tier, b.period_start, b.period_end, b.unit, b.used, b.denied, b.included, b.overage,
			b.unit_price, b.amount
		FROM tierlimit.bill b WHERE b.period_start <= $1 AND b.period_end > $1
		ORDER BY subject COLLATE "C", period_start, CASE unit WHEN 'requests' THEN 1 WHEN 'credits' THEN 2 ELSE 3 END;
		RETURN;
	END IF;
	RETURN QUERY
	SELECT * FROM (
		SELECT b.subject, b.keys, b.tier, b.period_start, b.period_end, b.unit, b.used, b.denied, b.included, b.overage,
			b.unit_price, b.amount
		FROM tierlimit.bill b WHERE b.period_start <= $1 AND b.period_end > $1
		UNION ALL
		SELECT * FROM tierlimit._running_bills($1, (SELECT coalesce(max(summed_until), '-infinity') FROM tierlimit.log_state))) x
	ORDER BY subject COLLATE "C", period_start, CASE unit WHEN 'requests' THEN 1 WHEN 'credits' THEN 2 ELSE 3 END;
END
$$;

COMMENT ON FUNCTION tierlimit.billing_report(timestamptz) IS 'The bills of the periods that contain a time: a row for each subject and unit';
CREATE FUNCTION tierlimit.simulate(tier text, "from" timestamptz, "to" timestamptz DEFAULT now(),
		key text DEFAULT NULL)
	RETURNS TABLE (key text, requests bigint, admitted bigint, denied bigint, first_denied_at timestamptz)
	AS 'MODULE_PATHNAME', 'tierlimit_simulate_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000;

COMMENT ON FUNCTION tierlimit.simulate(text, timestamptz, timestamptz, text) IS 'What would have become of the calls of a time under another tier';

--
-- The page of reports
--

-- One HTML page that fetches nothing and runs nothing: report_page() waits for the log, and
-- _page() puts it together of a function for each section.  These are STABLE, and so read in
-- one snapshot; bills take their own.  Whatever is from a table passes _html(), since
-- strangers choose what keys are called.  The page is all ASCII, so that it is the same in
-- each encoding of a client, and it is well-formed XML, which is easy to check.

CREATE TYPE tierlimit._page_answer AS (
	bucket timestamptz,
	tier text,
	error_code integer,
	requests numeric,
	credits numeric
);

COMMENT ON TYPE tierlimit._page_answer IS 'What was answered to a tier in a step of time; error_code 0: admitted';

-- Characters that a reader could not see, or that turn around what is beside them, are
-- shown as such: control characters by their pictures, from U+2400 on, the rest as U+FFFD.
-- So are letters of a database whose encoding is neither UTF-8 nor LATIN1.
CREATE FUNCTION tierlimit._html(value text) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN value COLLATE "C" ~ '^[ !#-%(-;=?-~]*$' THEN value ELSE
		(SELECT string_agg(CASE
				WHEN code < 32 THEN format('&#%s;', 9216 + code)
				WHEN letter COLLATE "C" ~ '[ !#-%(-;=?-~]' THEN letter
				WHEN code BETWEEN 127 AND 159 OR code IN (1564, 8206, 8207, 65279) OR code BETWEEN 8232 AND 8238
					OR code BETWEEN 8294 AND 8297 OR code & 65534 = 65534 THEN '&#65533;'
				ELSE format('&#%s;', code) END, '' ORDER BY n)
			FROM string_to_table(value, NULL) WITH ORDINALITY AS l (letter, n),
				LATERAL (SELECT CASE WHEN letter COLLATE "C" <= '~' OR getdatabaseencoding() IN ('UTF8', 'LATIN1')
					THEN ascii(letter) ELSE 65533 END AS code) c)
		END;
$$;

COMMENT ON FUNCTION tierlimit._html(text) IS 'A text for HTML: nothing of it is markup, and all of it is ASCII';

CREATE FUNCTION tierlimit._page_name(value text) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE
	RETURN '<bdi>' || tierlimit._html(value) || '</bdi>';

COMMENT ON FUNCTION tierlimit._page_name(text) IS 'A name for HTML, whichever direction it is written in';

CREATE FUNCTION tierlimit._page_number(value numeric, digits integer DEFAULT 0) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN regexp_replace(round(value, digits)::text, '(\d)(?=(\d{3})+(?!\d))', '\1,', 'g');

COMMENT ON FUNCTION tierlimit._page_number(numeric, integer) IS 'A number with thousands separated, rounded to at most two digits';

CREATE FUNCTION tierlimit._page_short_number(value numeric) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE WHEN value >= 1e12 THEN tierlimit._page_number(value / 1e12) || 'tn'
		WHEN value >= 1e9 THEN trim_scale(value / 1e9) || 'bn'
		WHEN value >= 1e6 THEN trim_scale(value / 1e6) || 'M'
		WHEN value >= 1e3 THEN trim_scale(value / 1e3) || 'k'
		ELSE trim_scale(value)::text END;

COMMENT ON FUNCTION tierlimit._page_short_number(numeric) IS 'A round number for an axis';

CREATE FUNCTION tierlimit._page_money(value numeric) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN format('<data value="%s">%s</data>', trim_scale(value), tierlimit._page_number(value, 2));

COMMENT ON FUNCTION tierlimit._page_money(numeric) IS 'An amount, rounded to be read, and exact for programs';

CREATE FUNCTION tierlimit._page_share(part numeric, whole numeric) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN CASE WHEN whole > 0 THEN
		format('<svg class="bar" width="80" height="10" aria-hidden="true"><rect class="track" width="80" height="10"/>'
				'<rect class="s1" width="%s" height="10"/></svg> %s&#160;%%',
			trim_scale(round(least(greatest(part / whole, 0), 1) * 80, 1)), tierlimit._page_number(100 * part / whole, 1)) END;

COMMENT ON FUNCTION tierlimit._page_share(numeric, numeric) IS 'A percentage, with a bar for it';

CREATE FUNCTION tierlimit._page_row(VARIADIC cells text[]) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN E'\n<tr><th scope="row">' || coalesce(cells[1], '') || '</th><td>' || array_to_string(cells[2:], '</td><td>', '') || '</td></tr>';

COMMENT ON FUNCTION tierlimit._page_row(text[]) IS 'The row of a table, of cells of HTML';

-- The first columns are texts, the others numbers.  Where it is too wide, a table is moved
-- in its frame, also by keys, and not the page.
CREATE FUNCTION tierlimit._page_table(caption text, texts integer, head text[], body text, foot text DEFAULT '')
	RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN format(E'<div class="frame" role="region" aria-label="%1$s" tabindex="0"><table class="texts%2$s"><caption>%1$s</caption>'
			'<thead><tr><th scope="col">%3$s</th></tr></thead><tbody>%4$s</tbody>%5$s</table></div>\n',
		caption, texts, array_to_string(head, '</th><th scope="col">'), body, '<tfoot>' || nullif(foot, '') || '</tfoot>');

COMMENT ON FUNCTION tierlimit._page_table(text, integer, text[], text, text) IS 'A table, of rows of HTML';

CREATE FUNCTION tierlimit._page_section(id text, title text, content text) RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN format(E'<section id="%1$s" aria-labelledby="%1$s-title">\n<h2 id="%1$s-title">%2$s</h2>\n%3$s</section>\n', id, title, content);

COMMENT ON FUNCTION tierlimit._page_section(text, text, text) IS 'A section of the page';

CREATE FUNCTION tierlimit._page_step_name(step interval) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET IntervalStyle = 'postgres_verbose' AS $$
	SELECT regexp_replace(replace(replace(replace(step::text, 'mon', 'month'), 'min', 'minute'), 'sec', 'second'), '^@ (1 (?!.* ))?', '');
$$;

COMMENT ON FUNCTION tierlimit._page_step_name(interval) IS 'A step in words: day, 7 days';

CREATE FUNCTION tierlimit._page_time(at timestamptz, step interval, short boolean) RETURNS text
	LANGUAGE sql STABLE
	RETURN to_char(at, CASE
		WHEN extract(year FROM step) * 12 + extract(month FROM step) > 0 THEN CASE WHEN short THEN 'Mon YYYY' ELSE 'YYYY-MM' END
		WHEN extract(day FROM step) > 0 THEN CASE WHEN short THEN 'FMDD Mon' ELSE 'YYYY-MM-DD' END
		WHEN short THEN 'FMDD Mon HH24:MI'
		WHEN extract(second FROM step) > 0 THEN 'YYYY-MM-DD HH24:MI:SS OF'
		ELSE 'YYYY-MM-DD HH24:MI OF' END);

COMMENT ON FUNCTION tierlimit._page_time(timestamptz, interval, boolean) IS 'The start of a step, as long as its length asks for';

CREATE FUNCTION tierlimit._page_range(since timestamptz, until timestamptz) RETURNS text
	LANGUAGE sql STABLE
	RETURN to_char(since, 'YYYY-MM-DD') || CASE WHEN until > since + interval '1 day' THEN ' &#8211; ' || to_char(until - interval '1 microsecond', 'YYYY-MM-DD') ELSE '' END;

COMMENT ON FUNCTION tierlimit._page_range(timestamptz, timestamptz) IS 'The days of a period, the last included';

-- The smallest of 1, 2, 5, 10, 20, ... of which five are enough.
CREATE FUNCTION tierlimit._page_tick(most numeric) RETURNS numeric
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN (SELECT min(n * ('1e' || k)::numeric) FROM generate_series(0, 40) k, unnest(ARRAY[1, 2, 5]) n
		WHERE n * ('1e' || k)::numeric * 5 >= most);

COMMENT ON FUNCTION tierlimit._page_tick(numeric) IS 'The distance of the lines of an axis that reaches so far';

-- The cells of a chart are those of the first bucket, one for each series, then those of the
-- next.
CREATE FUNCTION tierlimit._page_chart_numbers(title text, step interval, buckets timestamptz[], series text[], cells numeric[])
	RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH cell AS MATERIALIZED (
		SELECT (n - 1) / cardinality(series) + 1 AS i, (n - 1) % cardinality(series) AS s, value
		FROM unnest(cells) WITH ORDINALITY AS c (value, n)),
	line AS (
		SELECT i, array_agg(tierlimit._page_number(value) ORDER BY s) || tierlimit._page_number(sum(value)) AS numbers
		FROM cell GROUP BY i),
	total AS (SELECT s, sum(value) AS value FROM cell GROUP BY s)
	SELECT tierlimit._page_table(title, 1, ARRAY['From'] || series || ARRAY['All'],
		(SELECT string_agg(tierlimit._page_row(VARIADIC tierlimit._page_time(buckets[i], step, false) || numbers), '' ORDER BY i) FROM line),
		(SELECT tierlimit._page_row(VARIADIC 'All'::text || array_agg(tierlimit._page_number(value) ORDER BY s)
			|| tierlimit._page_number(sum(value))) FROM total));
$$;

COMMENT ON FUNCTION tierlimit._page_chart_numbers(text, interval, timestamptz[], text[], numeric[]) IS 'The table behind a chart';

-- A chart of stacked columns, a bucket each.  What is below zero, since more was given back
-- than used, is in the table only.
--
-- The drawing is as wide as there is room, and so all places across are percentages; the
-- columns are in a drawing of their own that is stretched, ten units each.  What is
-- written around it is outside of its box.  A narrow screen leaves out two of three dates.
CREATE FUNCTION tierlimit._page_chart(id text, title text, step interval, buckets timestamptz[], series text[], cells numeric[])
	RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $_$
	WITH cell AS MATERIALIZED (
		SELECT (n - 1) / cardinality(series) + 1 AS i, (n - 1) % cardinality(series) + 1 AS s, value
		FROM unnest(cells) WITH ORDINALITY AS c (value, n)),
	scale AS MATERIALIZED (
		SELECT tick, tick * ceil(m.most / tick) AS top, 240 / (tick * ceil(m.most / tick)) AS unit, m.most, m.highest, m.total, m.steps,
			(SELECT min(e) FROM unnest(ARRAY[1, 2, 3, 4, 6, 7, 12, 14, 24, 28, 42, 56]) e WHERE e * 8 >= m.steps) AS every
		FROM (SELECT max(h.height) AS most, sum(h.total) AS total, count(*) AS steps, (array_agg(h.i ORDER BY h.height DESC, h.i))[1] AS highest
				FROM (SELECT i, sum(greatest(value, 0)) AS height, sum(value) AS total FROM cell GROUP BY i) h) m,
			tierlimit._page_tick(m.most) tick),
	lines AS (
		SELECT string_agg(format('<line class="grid" x2="100%%" y1="%1$s" y2="%1$s"/><text x="-8" y="%1$s" dy=".32em" text-anchor="end">%2$s</text>',
			trim_scale(round(240 - at * unit, 1)), tierlimit._page_short_number(at)), '' ORDER BY at) AS html
		FROM scale, generate_series(0, top, tick) at),
	columns AS (
		SELECT string_agg(format('<path class="s%s" d="%s"/>', s, d), '' ORDER BY s) AS html
		FROM (SELECT s, string_agg(format('M%s %sv-%sh8v%3$sz', i * 10 - 9, trim_scale(round(240 - below * unit, 1)),
				trim_scale(round(value * unit, 1))), '' ORDER BY i) AS d
			FROM (SELECT i, s, value, sum(greatest(value, 0)) OVER (PARTITION BY i ORDER BY s) - value AS below FROM cell) c, scale
			WHERE value > 0 GROUP BY s) p),
	dates AS (
		SELECT string_agg(format('<text%s x="%s%%" y="262" text-anchor="middle">%s</text>', CASE WHEN (i - 1) / every % 3 > 0 THEN ' class="wide"' END,
			trim_scale(round((i - 0.5) * 100 / steps, 2)), tierlimit._page_time(buckets[i], step, true)), '' ORDER BY i) AS html
		FROM scale, generate_series(1, steps, every) i),
	legend AS (
		SELECT string_agg(format('<li><svg class="key" width="14" height="14" aria-hidden="true"><rect class="s%s" width="14" height="14"/></svg> %s: %s</li>',
			s, series[s], tierlimit._page_number(value)), '' ORDER BY s) AS html
		FROM (SELECT s, sum(value) AS value FROM cell GROUP BY s HAVING bool_or(value <> 0)) t)
	SELECT format($html$<figure>
<svg class="chart" height="240" role="img" aria-labelledby="%1$s-name %1$s-text"><title id="%1$s-name">%2$s</title>
<desc id="%1$s-text">A column for each %3$s, from %4$s to %5$s. All have %8$s calls; the highest, of %6$s, has %7$s.</desc>
<text x="-8" y="-18" text-anchor="end">calls</text>%9$s
<svg width="100%%" height="240" viewBox="0 0 %10$s 240" preserveAspectRatio="none">%11$s</svg>
<line class="axis" x2="100%%" y1="240" y2="240"/>%12$s
<text x="100%%" y="284" text-anchor="end">each %3$s, %13$s</text></svg>
<figcaption>From the bottom of a column to its top:<ul class="legend">%14$s</ul></figcaption>
<details><summary>The numbers of this chart</summary>%15$s</details>
</figure>
$html$, id, title, tierlimit._page_step_name(step), tierlimit._page_time(buckets[1], step, false),
		tierlimit._page_time(buckets[steps], step, false), tierlimit._page_time(buckets[highest], step, false),
		tierlimit._page_number(most), tierlimit._page_number(total), lines.html, steps * 10, columns.html, dates.html,
		tierlimit._html(current_setting('TimeZone')), legend.html,
		tierlimit._page_chart_numbers(title, step, buckets, series, cells))
	FROM scale, lines, columns, dates, legend;
$_$;

COMMENT ON FUNCTION tierlimit._page_chart(text, text, interval, timestamptz[], text[], numeric[]) IS 'A chart of stacked columns, and its numbers';

-- What was answered, by steps: of all keys together there are sums of each hour.
CREATE FUNCTION tierlimit._page_answers(since timestamptz, until timestamptz, step interval, zone text)
	RETURNS SETOF tierlimit._page_answer LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_$
DECLARE
	sinces timestamptz[];
	untils timestamptz[];
	buckets timestamptz[];
	parts text[];
BEGIN
	SELECT array_agg(s.since) FILTER (WHERE s.source <> 'log'), array_agg(s.until) FILTER (WHERE s.source <> 'log'),
		array_agg(s.bucket) FILTER (WHERE s.source <> 'log'),
		array_agg(format('SELECT tierlimit._bucket(at, $4, $5), tier, error_code, requests, credits
			FROM tierlimit.request_log WHERE at >= %L AND at < %L', s.since, s.until)) FILTER (WHERE s.source = 'log')
	INTO sinces, untils, buckets, parts
	FROM tierlimit._report_spans($1, $2, $3, $4) s;
	IF sinces IS NOT NULL THEN
		parts := parts || format('SELECT s.bucket, u.tier, u.error_code, u.requests, u.credits
			FROM unnest($1, $2, $3) s (since, until, bucket),
				LATERAL generate_series(s.since, s.until - interval ''1 microsecond'', interval ''1 hour'') h
				JOIN tierlimit.usage_by_code u ON u.hour = h
			WHERE u.hour >= %L AND u.hour < %L', (SELECT min(s) FROM unnest(sinces) s), (SELECT max(u) FROM unnest(untils) u));
	END IF;
	IF parts IS NULL THEN
		RETURN;
	END IF;
	RETURN QUERY EXECUTE format('SELECT bucket, tier, error_code, sum(requests)::numeric, sum(credits)::numeric
		FROM (%s) AS x (bucket, tier, error_code, requests, credits) GROUP BY 1, 2, 3', array_to_string(parts, ' UNION ALL '))
	USING sinces, untils, buckets, $3, $4;
END
$_$;

COMMENT ON FUNCTION tierlimit._page_answers(timestamptz, timestamptz, interval, text) IS 'What was answered in each step, to each tier';

-- The steps of a range, the first one past those that there is room for.
CREATE FUNCTION tierlimit._page_buckets(since timestamptz, until timestamptz, step interval, zone text, room integer)
	RETURNS timestamptz[] LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH RECURSIVE bucket AS (
		SELECT tierlimit._bucket(until - interval '1 microsecond', step, zone) AS begins, 1 AS n WHERE since < until
		UNION ALL
		SELECT tierlimit._bucket(begins - interval '1 microsecond', step, zone), n + 1 FROM bucket WHERE begins > since AND n <= room)
	SELECT array_agg(begins ORDER BY begins) FROM bucket;
$$;

COMMENT ON FUNCTION tierlimit._page_buckets(timestamptz, timestamptz, interval, text, integer) IS 'The steps of a range';

CREATE FUNCTION tierlimit._page_figures(answers tierlimit._page_answer[]) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT format('<dl class="figures"><div><dt>Calls admitted</dt><dd>%s</dd></div><div><dt>Credits</dt><dd>%s</dd></div>'
			'<div><dt>Calls denied</dt><dd>%s</dd></div><div><dt>Denied of all calls</dt><dd>%s</dd></div></dl>',
		tierlimit._page_number(admitted), tierlimit._page_number(credits), tierlimit._page_number(denied),
		coalesce(tierlimit._page_number(100 * denied / nullif(admitted + denied, 0), 1) || '&#160;%', '&#8211;'))
	FROM (SELECT coalesce(sum(requests) FILTER (WHERE error_code = 0), 0) AS admitted,
			coalesce(sum(credits) FILTER (WHERE error_code = 0), 0) AS credits,
			coalesce(sum(requests) FILTER (WHERE error_code <> 0), 0) AS denied
		FROM unnest(answers)) a;
$$;

COMMENT ON FUNCTION tierlimit._page_figures(tierlimit._page_answer[]) IS 'The page''s figures at the top';

-- Both charts have the same series, in the same colours: the tiers with most calls, and
-- one for the rest where there are more than six.
CREATE FUNCTION tierlimit._page_over_time(id text, title text, denied boolean, answers tierlimit._page_answer[],
		step interval, buckets timestamptz[])
	RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH tier AS MATERIALIZED (
		SELECT tier, least(n, CASE WHEN of > 6 THEN 6 ELSE n END) AS s
		FROM (SELECT a.tier, row_number() OVER (ORDER BY sum(a.requests) DESC, a.tier COLLATE "C") AS n, count(*) OVER () AS of
			FROM unnest(answers) a GROUP BY a.tier) t),
	series AS MATERIALIZED (
		SELECT s, CASE WHEN count(*) > 1 THEN format('%s other tiers', count(*))
			ELSE coalesce(tierlimit._page_name(min(tier)), '<i>no tier</i>') END AS name
		FROM tier GROUP BY s),
	amount AS MATERIALIZED (
		SELECT a.bucket, t.s, sum(a.requests) AS requests
		FROM unnest(answers) a JOIN tier t ON t.tier IS NOT DISTINCT FROM a.tier
		WHERE (a.error_code <> 0) = denied GROUP BY 1, 2)
	SELECT tierlimit._page_section(id, title, CASE WHEN EXISTS (SELECT FROM amount WHERE requests > 0)
		THEN tierlimit._page_chart(id || '-chart', title, step, buckets, (SELECT array_agg(name ORDER BY s) FROM series),
			(SELECT array_agg(coalesce(a.requests, 0) ORDER BY b.bucket, s.s)
				FROM unnest(buckets) b (bucket) CROSS JOIN series s LEFT JOIN amount a USING (bucket, s)))
		ELSE '<p class="none">None in this time.</p>' END);
$$;

COMMENT ON FUNCTION tierlimit._page_over_time(text, text, boolean, tierlimit._page_answer[], interval, timestamptz[]) IS 'The page''s section on calls, or on denied ones, over time by tier';

-- Whose calls were counted, or denied, most often.  Days that have sums follow each other,
-- of which whole months are read by months; and so do those hours of a day.  All keys are read once, each source for itself, so that
-- none has to be sorted, and by several processes if there are some; then those that are
-- shown again, for their accounts and tiers.  What has no key that is known is one row.
CREATE FUNCTION tierlimit._page_busiest(since timestamptz, until timestamptz, shown integer) RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_$
DECLARE
	sources text[];
	keys text[];
	requests numeric[];
	credits numeric[];
	denied numeric[];
	calls numeric;
	of bigint;
	result text;
BEGIN
	SELECT array_agg(CASE x.source
		WHEN 'log' THEN format('SELECT tierlimit._summed_key(key, tier, error_code) AS key, account, tier,
				CASE error_code WHEN 0 THEN requests ELSE 0 END AS requests, CASE error_code WHEN 0 THEN credits ELSE 0 END AS credits,
				CASE error_code WHEN 0 THEN 0 ELSE requests END AS denied
			FROM tierlimit.request_log WHERE at >= %L AND at < %L', x.since, x.until)
		ELSE format('SELECT key, account, tier, requests, credits, denied FROM tierlimit.%I WHERE %I >= %L AND %I < %L',
			CASE x.source WHEN 'hour' THEN 'usage_hourly' WHEN 'day' THEN 'usage_daily' ELSE 'usage_monthly' END,
			x.source, x.since, x.source, x.until) END)
	INTO sources
	FROM (SELECT s.source, min(s.since) AS since, max(s.until) AS until
		FROM tierlimit._report_spans($1, $2, '1 day', 'UTC') s
		GROUP BY s.source, CASE s.source WHEN 'log' THEN s.since WHEN 'hour' THEN date_trunc('day', s.since, 'UTC') END) s
		LEFT JOIN tierlimit.log_state l ON s.source = 'day'
		LEFT JOIN LATERAL tierlimit._whole_parts(s.since, s.until, l.summed_until, l.kept_since) w ON s.source = 'day',
		LATERAL (SELECT s.source, s.since, s.until WHERE s.source <> 'day'
			UNION ALL SELECT 'month', w.first_month, w.end_month WHERE s.source = 'day' AND w.first_month < w.end_month
			UNION ALL SELECT 'day', s.since, least(w.first_month, s.until) WHERE s.source = 'day' AND s.since < least(w.first_month, s.until)
			UNION ALL SELECT 'day', greatest(w.end_month, w.first_month), s.until
				WHERE s.source = 'day' AND greatest(w.end_month, w.first_month) < s.until) x;
	IF sources IS NULL THEN
		RETURN NULL;
	END IF;

	EXECUTE format($sql$
		SELECT array_agg(key ORDER BY requests + denied DESC, key COLLATE "C"), array_agg(requests ORDER BY requests + denied DESC, key COLLATE "C"),
			array_agg(credits ORDER BY requests + denied DESC, key COLLATE "C"), array_agg(denied ORDER BY requests + denied DESC, key COLLATE "C"),
			max(calls), max(of)
		FROM (SELECT key, sum(requests) AS requests, sum(credits) AS credits, sum(denied) AS denied,
				sum(sum(requests) + sum(denied)) OVER () AS calls, count(*) OVER () AS of
			FROM (%s) s GROUP BY key HAVING sum(requests) <> 0 OR sum(credits) <> 0 OR sum(denied) <> 0
			ORDER BY sum(requests) + sum(denied) DESC, key COLLATE "C" LIMIT $1) k$sql$,
		(SELECT string_agg(format('SELECT key, sum(requests) AS requests, sum(credits) AS credits, sum(denied) AS denied FROM (%s) s GROUP BY key', s),
			' UNION ALL ') FROM unnest(sources) s))
	INTO keys, requests, credits, denied, calls, of USING shown;
	EXECUTE format($sql$
		WITH name AS (
			SELECT key, string_agg(DISTINCT tierlimit._page_name(account), ', ') AS accounts, string_agg(DISTINCT tierlimit._page_name(tier), ', ') AS tiers
			FROM (%s) s GROUP BY key)
		SELECT format('<p>%%s of %%s keys that called in this time.</p>', count(*), tierlimit._page_number($5))
			|| tierlimit._page_table('Calls of keys', 3, ARRAY['Key', 'Account', 'Tier', 'Admitted', 'Credits', 'Denied', 'Of all calls'],
			string_agg(tierlimit._page_row(coalesce(tierlimit._page_name(k.key), '<i>no key that is known</i>'), d.accounts, d.tiers,
				tierlimit._page_number(k.requests), tierlimit._page_number(k.credits), tierlimit._page_number(k.denied),
				tierlimit._page_share(k.requests + k.denied, $6)), '' ORDER BY k.n))
		FROM unnest($1, $2, $3, $4) WITH ORDINALITY k (key, requests, credits, denied, n) LEFT JOIN name d USING (key)
		HAVING count(*) > 0$sql$,
		(SELECT string_agg(format('SELECT DISTINCT key, account, tier FROM (%s) s WHERE key = ANY ($1)', s), ' UNION ALL ') FROM unnest(sources) s))
	INTO result USING keys, requests, credits, denied, of, calls;
	RETURN result;
END
$_$;

COMMENT ON FUNCTION tierlimit._page_busiest(timestamptz, timestamptz, integer) IS 'The page''s section on the keys with most calls; NULL: there are none';

CREATE FUNCTION tierlimit._counted(OUT subject text, OUT is_account boolean, OUT period interval, OUT kind text,
		OUT unit text, OUT used bigint)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tierlimit_counted_1_0'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION tierlimit._counted() IS 'What the windows in shared memory count now, of keys and accounts';

-- Who has used most of a limit: in memory, and so of those who have called since the server
-- was started.  A key goes by its tier, an account by that of its oldest key, and who is
-- not registered by that of the last call.
CREATE FUNCTION tierlimit._page_near_limits(shown integer) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH candidate AS MATERIALIZED (
		SELECT c.* FROM tierlimit._counted() c
			JOIN (SELECT period, kind, unit, min(max) AS max FROM tierlimit.tier_limit WHERE max > 0 GROUP BY 1, 2, 3) l
				USING (period, kind, unit)
		WHERE c.used >= 0.8 * l.max),
	subject AS MATERIALIZED (
		SELECT c.subject, c.is_account, coalesce(r.tier, tierlimit._last_tier(c.subject, c.is_account, 'infinity')) AS tier
		FROM (SELECT DISTINCT subject, is_account FROM candidate) c
			LEFT JOIN LATERAL (SELECT r.tier FROM tierlimit._billed_subject r
				WHERE r.subject = c.subject AND r.is_account = c.is_account) r ON true),
	near AS MATERIALIZED (
		SELECT c.subject, c.is_account, s.tier, l.name, l.unit, l.enforce, c.used, l.max, row_number() OVER (
				ORDER BY c.used / l.max DESC, c.subject COLLATE "C", c.is_account, l.period, l.kind, l.unit) AS n
		FROM candidate c JOIN subject s USING (subject, is_account)
			JOIN tierlimit.tier_limit l ON l.tier = s.tier AND l.period = c.period AND l.kind = c.kind AND l.unit = c.unit
		WHERE l.max > 0 AND c.used >= 0.8 * l.max)
	SELECT CASE WHEN count(*) = 0 THEN '<p class="none">Nobody has used 80&#160;% of a limit now.</p>' ELSE
		format('<p>Who has used 80&#160;%% of a limit now, whatever the time of the other figures: %s of %s.</p>',
			least(count(*), shown), tierlimit._page_number(count(*)))
		|| tierlimit._page_table('Used of limits', 4, ARRAY['Key or account', 'Tier', 'Limit', 'Unit', 'Used', 'Of', 'Share'],
			string_agg(tierlimit._page_row(tierlimit._page_name(subject) || CASE WHEN is_account THEN ' (account)' ELSE '' END,
				tierlimit._page_name(tier), tierlimit._page_name(name) || CASE WHEN enforce THEN '' ELSE ' (denies nothing)' END, unit,
				tierlimit._page_number(used), tierlimit._page_number(max), tierlimit._page_share(used, max)), '' ORDER BY n) FILTER (WHERE n <= shown)) END
	FROM near;
$$;

COMMENT ON FUNCTION tierlimit._page_near_limits(integer) IS 'The page''s section on who is near a limit';

CREATE FUNCTION tierlimit._page_reasons(answers tierlimit._page_answer[], shown integer) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH reason AS (
		SELECT a.error_code, a.tier, sum(a.requests) AS denied, sum(sum(a.requests)) OVER () AS calls,
			row_number() OVER (ORDER BY sum(a.requests) DESC, a.error_code, a.tier COLLATE "C") AS n
		FROM unnest(answers) a WHERE a.error_code <> 0 GROUP BY 1, 2)
	SELECT CASE WHEN count(*) = 0 THEN '<p class="none">No call was denied in this time.</p>' ELSE
		tierlimit._page_table('Denied calls by reason and tier', 3, ARRAY['Code', 'Reason', 'Tier', 'Denied', 'Of all denied'],
			string_agg(tierlimit._page_row(error_code::text, tierlimit._html(e.name) || '<span class="text">' || tierlimit._html(e.message) || '</span>',
				coalesce(tierlimit._page_name(tier), '<i>no tier</i>'), tierlimit._page_number(denied),
				tierlimit._page_share(denied, calls)), '' ORDER BY n) FILTER (WHERE n <= shown),
			tierlimit._page_row('All', '', '', tierlimit._page_number(sum(denied)), ''))
		|| CASE WHEN count(*) > shown THEN format('<p>Not shown: %s rows with fewer calls.</p>', tierlimit._page_number(count(*) - shown)) ELSE '' END END
	FROM reason LEFT JOIN tierlimit.error_code e ON e.code = error_code;
$$;

COMMENT ON FUNCTION tierlimit._page_reasons(tierlimit._page_answer[], integer) IS 'The page''s section on what was denied and why';

CREATE FUNCTION tierlimit._page_bills(at timestamptz, shown integer) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH line AS MATERIALIZED (SELECT * FROM tierlimit.billing_report(at)),
	by_tier AS MATERIALIZED (
		SELECT tier, count(*) AS lines, count(*) FILTER (WHERE unit = 'requests') AS bills,
			coalesce(sum(amount) FILTER (WHERE unit = 'period'), 0) AS prices,
			coalesce(sum(amount) FILTER (WHERE unit <> 'period'), 0) AS overage, sum(amount) AS amount
		FROM line GROUP BY tier),
	total AS MATERIALIZED (SELECT sum(lines) AS lines, sum(bills) AS bills, sum(prices) AS prices, sum(overage) AS overage, sum(amount) AS amount FROM by_tier),
	greatest_line AS MATERIALIZED (
		SELECT *
		FROM (SELECT *, CASE unit WHEN 'requests' THEN 1 WHEN 'credits' THEN 2 ELSE 3 END AS unit_number FROM line) l
		ORDER BY amount DESC, subject COLLATE "C", period_start, unit_number LIMIT shown)
	SELECT CASE WHEN t.lines IS NULL THEN '<p class="none">There is no bill of this time.</p>' ELSE
		format('<p>The billing periods that contain %s, as far as they are decided. Amounts are rounded here, and summed up before that.</p>',
			to_char(at, 'YYYY-MM-DD HH24:MI'))
		|| (SELECT tierlimit._page_table('Bills by tier', 1, ARRAY['Tier', 'Bills', 'Prices', 'Overage', 'Amount'],
				string_agg(tierlimit._page_row(coalesce(tierlimit._page_name(tier), '<i>no tier</i>'), tierlimit._page_number(bills),
					tierlimit._page_money(prices), tierlimit._page_money(overage), tierlimit._page_money(amount)), ''
					ORDER BY amount DESC, tier COLLATE "C"),
				tierlimit._page_row('All', tierlimit._page_number(t.bills), tierlimit._page_money(t.prices),
					tierlimit._page_money(t.overage), tierlimit._page_money(t.amount))) FROM by_tier)
		|| (SELECT tierlimit._page_table('The greatest amounts', 4,
				ARRAY['Key or account', 'Tier', 'Period', 'Unit', 'Used', 'Included', 'Over', 'Price', 'Amount'],
				string_agg(tierlimit._page_row(tierlimit._page_name(subject), tierlimit._page_name(tier),
					tierlimit._page_range(period_start, period_end), unit, tierlimit._page_number(used), tierlimit._page_number(included),
					tierlimit._page_number(overage), trim_scale(unit_price)::text, tierlimit._page_money(amount)), ''
					ORDER BY amount DESC, subject COLLATE "C", period_start, unit_number),
				tierlimit._page_row('All' || CASE WHEN t.lines > shown THEN format(', with %s rows more', tierlimit._page_number(t.lines - shown)) ELSE '' END,
					'', '', '', '', '', '', '', tierlimit._page_money(t.amount))) FROM greatest_line)
		|| CASE WHEN t.lines > shown THEN format('<p>All rows: <code>SELECT * FROM tierlimit.billing_report(%s)</code></p>',
			tierlimit._html(quote_literal(at))) ELSE '' END END
	FROM total t;
$$;

COMMENT ON FUNCTION tierlimit._page_bills(timestamptz, integer) IS 'The page''s section on the bills of the periods that contain a time';

-- Colours have the contrast that WCAG 2 asks for, in light and in dark: 4.5 to 1 for texts,
-- and 3 to 1 for the columns.  Every other series is striped, so that neighbours differ
-- also to those who see no colours.  What is printed is light, and has its tables open.
CREATE FUNCTION tierlimit._page_style() RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
	SELECT $css$
:root { color-scheme: light; --page: #fff; --shade: #f4f6f8; --text: #1f2328; --soft: #57606a; --line: #c5ccd3; --link: #0550ae;
	--s1: #1f5fa8; --s2: #b35900; --s3: #1a7f5a; --s4: #8f3f97; --s5: #6b6b00; --s6: #5f6b7a }
@media screen and (prefers-color-scheme: dark) {
	:root { color-scheme: dark; --page: #14181d; --shade: #1d232a; --text: #e8ebee; --soft: #a9b3bd; --line: #444d56; --link: #79b8ff;
		--s1: #6cb0f5; --s2: #f2a65a; --s3: #5fd0a5; --s4: #d695e0; --s5: #d6d060; --s6: #a3afbd }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
header, main, footer { max-width: 72rem; margin: 0 auto; padding: 0 1rem }
h1 { margin: 2rem 0 0; line-height: 1.2 }
h2 { margin: 3rem 0 .5rem; line-height: 1.2 }
a { color: var(--link) }
nav ul, .legend { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: .5rem 0; padding: 0; list-style: none }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
.skip { position: absolute; left: -99rem }
.skip:focus { left: 1rem; top: 0; background: var(--page) }
.none, figcaption, footer, caption, .figures dt { color: var(--soft) }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 0 }
.figures div { flex: 1 1 9rem; padding: .75rem 1rem; background: var(--shade); border: 1px solid var(--line); border-radius: .5rem }
.figures dd { margin: 0; font-size: 1.5rem; font-weight: 600; overflow-wrap: anywhere }
figure { margin: 0 }
.chart { display: block; overflow: visible; width: calc(100% - 5.5rem); margin: 3rem 2rem 3.75rem 3.5rem; font-size: 13px }
.chart text { fill: var(--soft) }
.grid { stroke: var(--line) }
.axis { stroke: var(--soft) }
.patterns { position: absolute; width: 0; height: 0 }
.gap { fill: var(--page) }
.track { fill: var(--line) }
.s1, .c1 { fill: var(--s1) } .c2 { fill: var(--s2) } .s3 { fill: var(--s3) } .c4 { fill: var(--s4) } .s5 { fill: var(--s5) } .c6 { fill: var(--s6) }
.s2 { fill: url(#stripes2) } .s4 { fill: url(#stripes4) } .s6 { fill: url(#stripes6) }
.legend li { overflow-wrap: anywhere }
summary { cursor: pointer; padding: .25rem 0 }
.frame { overflow-x: auto; margin: .5rem 0 1rem }
table { border-collapse: collapse; min-width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums }
caption { text-align: left; padding: .25rem 0 }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); white-space: nowrap }
th { font-weight: 600 }
tbody th { font-weight: 400 }
tfoot th, tfoot td { font-weight: 600; border-bottom: 0 }
thead th { background: var(--shade) }
.texts1 :nth-child(-n+1), .texts3 :nth-child(-n+3), .texts4 :nth-child(-n+4) { text-align: left }
.text { display: block; min-width: 14rem; white-space: normal }
bdi { display: inline-block; width: max-content; max-width: 20rem; overflow: clip; overflow-wrap: break-word; white-space: normal; vertical-align: top }
.legend bdi { display: inline; overflow-wrap: anywhere }
@media (max-width: 40rem) { .wide { display: none } body { font-size: 15px } bdi { max-width: 12rem } }
@media print {
	nav, .skip, summary { display: none }
	body { font-size: 11px }
	.frame { overflow: visible }
	details::details-content { content-visibility: visible; block-size: auto }
	figure svg, tr { break-inside: avoid }
	h2, caption { break-after: avoid }
	svg { print-color-adjust: exact }
}
$css$;
$$;

COMMENT ON FUNCTION tierlimit._page_style() IS 'The page''s style sheet';

-- A range that has no beginning is shown from the first call on, and one without an end
-- until now.
CREATE FUNCTION tierlimit._page(since timestamptz, until timestamptz, step interval) RETURNS text
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $_$
DECLARE
	zone text := current_setting('TimeZone');
	room integer := 400;
	begins timestamptz := since;
	ends timestamptz := until;
	billed_at timestamptz;
	answers tierlimit._page_answer[];
	buckets timestamptz[];
BEGIN
	SELECT array_agg(a) INTO answers FROM tierlimit._page_answers(since, until, step, zone) a;
	IF NOT isfinite(since) THEN
		begins := least((SELECT min(a.bucket) FROM unnest(answers) a), CASE WHEN isfinite(until) THEN until END, tierlimit._now());
	END IF;
	IF NOT isfinite(until) THEN
		ends := greatest((SELECT max(a.bucket) FROM unnest(answers) a) + interval '1 microsecond', begins,
			CASE WHEN since < until THEN tierlimit._now() END);
	END IF;
	buckets := tierlimit._page_buckets(begins, ends, step, zone, room);
	IF cardinality(buckets) > room THEN
		RAISE SQLSTATE '22023' USING MESSAGE = format('a page has room for %s steps', room),
			DETAIL = format('From %s to %s there are more, one for each %s.', begins, ends, tierlimit._page_step_name(step)),
			HINT = 'Take a longer step, or a shorter range.';
	END IF;
	billed_at := least(ends - interval '1 microsecond', tierlimit._now());

	RETURN format($html$<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>API usage, %1$s</title>
<style>%2$s</style></head>
<body><a class="skip" href="#main">To the figures</a>
<svg class="patterns" aria-hidden="true" focusable="false"><defs>%3$s</defs></svg>
<header><h1>API usage</h1>
<p>From %4$s until %5$s%8$s. Times are those of %6$s. Written on %7$s.</p>
<nav aria-label="Sections"><ul><li><a href="#calls">Calls</a></li><li><a href="#denials">Denials</a></li><li><a href="#busiest">Busiest keys</a></li>
<li><a href="#near">Near a limit</a></li><li><a href="#reasons">Reasons</a></li><li><a href="#bills">Bills</a></li></ul></nav></header>
<main id="main" tabindex="-1">
$html$, tierlimit._page_range(begins, ends), tierlimit._page_style(),
		(SELECT string_agg(format('<pattern id="stripes%s" width="4000" height="%s" patternUnits="userSpaceOnUse">'
				'<rect class="c%1$s" width="4000" height="8"/><rect class="gap" width="4000" y="2" height="1"/></pattern>', n, 2 + n), '' ORDER BY n)
			FROM unnest(ARRAY[2, 4, 6]) n),
		to_char(begins, 'YYYY-MM-DD HH24:MI'), to_char(ends, 'YYYY-MM-DD HH24:MI'), tierlimit._html(zone), to_char(tierlimit._now(), 'YYYY-MM-DD HH24:MI'),
		CASE WHEN buckets[1] < begins OR tierlimit._bucket(ends, step, zone) < ends THEN ', which cuts the first or the last of the columns' ELSE '' END)
		|| tierlimit._page_figures(answers)
		|| tierlimit._page_over_time('calls', 'Admitted calls by tier', false, answers, step, buckets)
		|| tierlimit._page_over_time('denials', 'Denied calls by tier', true, answers, step, buckets)
		|| tierlimit._page_section('busiest', 'The busiest keys',
			coalesce(tierlimit._page_busiest(since, until, 20), '<p class="none">Nobody called in this time.</p>'))
		|| tierlimit._page_section('near', 'Near a limit', tierlimit._page_near_limits(20))
		|| tierlimit._page_section('reasons', 'What was denied, and why', tierlimit._page_reasons(answers, 60))
		|| tierlimit._page_section('bills', 'Bills', CASE WHEN isfinite(billed_at)
			THEN tierlimit._page_bills(billed_at, 50) ELSE '<p class="none">There is no bill of this time.</p>' END)
		|| E'</main><footer><p>Made by tierlimit from the request log and its sums.</p></footer></body></html>\n';
END
$_$;

COMMENT ON FUNCTION tierlimit._page(timestamptz, timestamptz, interval) IS 'The work of report_page()';

-- (to compile its queries takes longer than to run them)
CREATE FUNCTION tierlimit.report_page("from" timestamptz, "to" timestamptz DEFAULT now(), step interval DEFAULT '1 day')
	RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET DateStyle = 'ISO' SET jit = off AS $$
BEGIN
	PERFORM tierlimit._require_range($1, $2);
	PERFORM tierlimit._bucket(now(), coalesce($3, '0'), current_setting('TimeZone'));
	PERFORM tierlimit.log_flush();
	RETURN tierlimit._page($1, $2, $3);
END
$$;

COMMENT ON FUNCTION tierlimit.report_page(timestamptz, timestamptz, interval) IS 'One HTML page on calls, denials, keys, limits and bills';

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

CREATE FUNCTION tierlimit._progress(command text, phase text DEFAULT NULL,
		done bigint DEFAULT NULL, total bigint DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'tierlimit_progress_1_0'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED;

COMMENT ON FUNCTION tierlimit._progress(text, text, bigint, bigint) IS 'Report in the view stat_progress how far this session''s work is; without a command, that it is over';

CREATE FUNCTION tierlimit._stat_progress(OUT pid integer, OUT datid oid, OUT command text,
		OUT phase text, OUT rows_done bigint, OUT rows_total bigint, OUT started_at timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'tierlimit_stat_progress_1_0'
	LANGUAGE C VOLATILE PARALLEL SAFE ROWS 10;

COMMENT ON FUNCTION tierlimit._stat_progress() IS 'What the view stat_progress shows';

CREATE VIEW tierlimit.stat_progress AS
	SELECT p.pid, p.datid, d.datname, p.command, p.phase, p.rows_done, p.rows_total, p.started_at
	FROM tierlimit._stat_progress() p LEFT JOIN pg_catalog.pg_database d ON d.oid = p.datid;

COMMENT ON VIEW tierlimit.stat_progress IS 'Long work that runs now, in all databases of this server: a row for each process';
COMMENT ON COLUMN tierlimit.stat_progress.command IS 'the function that does it; sums: the log writer sums up what is over';
COMMENT ON COLUMN tierlimit.stat_progress.phase IS 'the part of it that runs';
COMMENT ON COLUMN tierlimit.stat_progress.rows_done IS 'rows of the request log, in this phase; of sums, minutes of it';
COMMENT ON COLUMN tierlimit.stat_progress.rows_total IS 'an estimate of how many there are; NULL: not known';

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

CREATE FUNCTION tierlimit.grant_reporting(role name) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	EXECUTE format('GRANT USAGE ON SCHEMA tierlimit TO %I', role);
	EXECUTE format('GRANT USAGE ON TYPE tierlimit.verification TO %I', role);
	EXECUTE format('GRANT EXECUTE ON FUNCTION tierlimit.usage_report, tierlimit.billing_report,'
				   ' tierlimit.usage_chart, tierlimit.report_page, tierlimit.simulate, tierlimit.verify TO %I', role);
	EXECUTE format('GRANT SELECT ON tierlimit.request_log, tierlimit.usage_hourly, tierlimit.usage_daily, tierlimit.usage_monthly,'
				   ' tierlimit.usage_by_code, tierlimit.bill TO %I', role);
END
$$;

COMMENT ON FUNCTION tierlimit.grant_reporting(name) IS 'Grant a role the reports, and to read the log, the sums and the bills, and no more';

CREATE FUNCTION tierlimit.grant_monitoring(role name) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	EXECUTE format('GRANT USAGE ON SCHEMA tierlimit TO %I', role);
	EXECUTE format('GRANT SELECT ON tierlimit.stat, tierlimit.stat_progress TO %I', role);
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

-- A view calls its functions as whoever reads it: these ask for the right to read
-- the views stat and stat_progress.
GRANT EXECUTE ON FUNCTION tierlimit._stat_counters, tierlimit._stat_progress TO PUBLIC;

REVOKE ALL ON TYPE tierlimit.decision, tierlimit.verification, tierlimit._page_answer FROM PUBLIC;
