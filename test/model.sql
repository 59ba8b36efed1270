-- The limits by plain SQL, and play(), which compares tierlimit with them.
--
-- The model keeps every admitted call in a table, and computes each answer anew
-- from the calls of its span and from the configuration tables, in the words of
-- the interface's description and with no thought of speed.  Whoever is counted
-- is a subject here: 'key ...' or 'account ...'; 'address ...', where a call comes
-- from; 'anonymous ...', who calls from there without a key; or 'nobody', all who
-- have neither key nor address.  A call is charged to a set of subjects, to all of
-- them or to none.
--
-- Needs a session whose time zone is UTC: there a day has 24 hours.

CREATE SCHEMA model;

-- The keys that play() makes calls for, and their rows in api_key, where they
-- come and go.
CREATE TABLE model.caller (
	name text PRIMARY KEY,
	account text,
	anchor timestamptz,
	timezone text NOT NULL DEFAULT 'UTC'
);

-- Where calls to the gate come from: two addresses of IPv4, of which one is written
-- in several ways, and of IPv6 one network of /64.
CREATE TABLE model.origin (
	ip inet PRIMARY KEY
);
INSERT INTO model.origin VALUES ('192.0.2.1'), ('::ffff:192.0.2.1'), ('64:ff9b::192.0.2.1'), ('198.51.100.9'),
	('2001:db8:1:2::7'), ('2001:db8:1:2:ffff::1');

-- Admitted calls.
CREATE TABLE model.call (
	seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	-- whose request_id it is: a key, also one of an account; or who has none
	caller text NOT NULL,
	-- who was counted, beside the address
	subject text NOT NULL,
	request_id text,
	answer tierlimit.decision
);
CREATE INDEX ON model.call (caller, request_id);

-- What is counted of a call for each of its subjects, less what was given back.
CREATE TABLE model.charge (
	seq bigint REFERENCES model.call,
	subject text NOT NULL,
	tier text NOT NULL,
	at timestamptz NOT NULL,
	requests bigint NOT NULL,
	credits bigint NOT NULL,
	PRIMARY KEY (seq, subject)
);
CREATE INDEX ON model.charge (subject, at);

-- Calls with what is counted of them for who called.
CREATE VIEW model.request AS
	SELECT c.seq, c.caller, c.request_id, c.answer, h.subject, h.at, h.requests, h.credits
	FROM model.call c JOIN model.charge h USING (seq, subject);

-- When a subject's latest decision was made.  After a reset that may be
-- forgotten, as denied calls are by a restart.
CREATE TABLE model.clock (
	subject text PRIMARY KEY,
	at timestamptz NOT NULL,
	forgotten boolean NOT NULL
);

-- Where an earlier play ended, and how long it was.
CREATE TABLE model.played (
	until timestamptz NOT NULL,
	operations integer NOT NULL
);

-- The limits as they were when the play began.
CREATE TABLE model.original (LIKE tierlimit.tier_limit);
-- the limits, with max as the bigint that it is in answers
CREATE VIEW model.tier_limit AS
	SELECT tier, name, period, kind, max::bigint AS max, unit, enforce, error_code FROM tierlimit.tier_limit;

--
-- What is counted
--

-- The calendar period that contains a moment: of those that begin k periods
-- after the anchor, for some k near an estimate, the one that fits.  Days and
-- longer are counted on the zone's wall clock.
CREATE FUNCTION model.calendar(period interval, anchor timestamptz, timezone text, at timestamptz)
	RETURNS tstzrange LANGUAGE plpgsql STABLE AS $$
DECLARE
	first timestamptz := coalesce(anchor, timestamp '2001-01-01' AT TIME ZONE timezone);
	k integer := floor((extract(epoch FROM at) - extract(epoch FROM first)) / extract(epoch FROM period));
BEGIN
	RETURN (
		SELECT tstzrange(max(start) FILTER (WHERE start <= at), min(start) FILTER (WHERE start > at))
		FROM generate_series(k - 6, k + 2) AS n, LATERAL (
			SELECT CASE WHEN period < '1 day' THEN first + n * period
				ELSE (first AT TIME ZONE timezone + n * period) AT TIME ZONE timezone END) AS s (start));
END
$$;

-- Calls may leave a full window late by less than this.
CREATE FUNCTION model.slot(period interval) RETURNS interval LANGUAGE sql STABLE AS $$
	SELECT period / current_setting('tierlimit.window_slots')::integer
$$;

-- The time that a window looks at; late: if calls leave as late as they may.
CREATE FUNCTION model.span(kind text, period interval, anchor timestamptz, timezone text,
		at timestamptz, late boolean)
	RETURNS tstzrange LANGUAGE sql STABLE AS $$
	SELECT CASE kind
		WHEN 'calendar' THEN model.calendar(period, anchor, timezone, at)
		ELSE tstzrange(at - period - CASE WHEN late THEN model.slot(period) ELSE '0' END, at, '(]') END
$$;

-- The calls that a window of a subject counts.  One that was counted later than now,
-- by a clock that was wrong, counts as of now.
CREATE FUNCTION model.held(subject text, unit text, span tstzrange, now timestamptz)
	RETURNS TABLE (at timestamptz, units bigint) LANGUAGE sql STABLE AS $$
	SELECT least(c.at, held.now), u.units
	FROM model.charge c,
		LATERAL (SELECT CASE held.unit WHEN 'credits' THEN c.credits ELSE c.requests END) AS u (units)
	WHERE c.subject = held.subject AND least(c.at, held.now) <@ span AND c.at >= lower(span) AND u.units > 0
$$;

--
-- What is answered
--

-- What applies to one of the subjects that a call is charged to.
CREATE TYPE model.policy AS (
	subject text,
	key text,
	tier text,
	refusal integer,
	anchor timestamptz,
	timezone text,
	at timestamptz
);

-- No subject decides earlier than it did before.
CREATE FUNCTION model.time_of(subject text, now timestamptz) RETURNS timestamptz LANGUAGE sql STABLE AS $$
	SELECT greatest(now, (SELECT c.at FROM model.clock c WHERE c.subject = time_of.subject AND NOT c.forgotten))
$$;

-- What applies to a key.
CREATE FUNCTION model.policy_of(key text, tier text, now timestamptz) RETURNS model.policy
	LANGUAGE plpgsql STABLE AS $$
DECLARE
	registered tierlimit.api_key;
	policy model.policy;
BEGIN
	SELECT * INTO registered FROM tierlimit.api_key k WHERE k.name = key;
	policy.subject := coalesce('account ' || registered.account, 'key ' || key);
	policy.key := key;
	policy.tier := coalesce(tier, registered.tier);
	policy.refusal := CASE
		WHEN policy.tier IS NULL THEN 1001
		WHEN registered.status = 'payment_required' THEN 1003
		WHEN registered.status = 'payment_expired' THEN 1004
		WHEN registered.status = 'disabled' THEN 1007
		ELSE 0 END;
	policy.anchor := registered.billing_anchor;
	policy.timezone := coalesce(registered.billing_timezone, 'UTC');
	policy.at := model.time_of(policy.subject, now);
	RETURN policy;
END
$$;

-- An address as it is counted: IPv4 whole, IPv6 by its /64, IPv4 in IPv6 as IPv4.
CREATE FUNCTION model.address(ip inet) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE
		WHEN family(ip) = 4 THEN host(ip)
		WHEN ip << '::ffff:0:0/96' THEN host('0.0.0.0'::inet + (ip - '::ffff:0:0'))
		WHEN ip << '64:ff9b::/96' THEN host('0.0.0.0'::inet + (ip - '64:ff9b::'))
		ELSE network(set_masklen(ip, 64))::text END
$$;

-- The addresses that are counted: none, if there is no tier for them.
CREATE FUNCTION model.addresses() RETURNS text[] LANGUAGE sql STABLE AS $$
	SELECT array_agg(DISTINCT model.address(o.ip) ORDER BY model.address(o.ip)) FROM model.origin o, tierlimit.tier t WHERE t.name = 'ip'
$$;

-- What applies to who is no key: nothing, if that tier does not exist.
CREATE FUNCTION model.policy_without_key(subject text, tier text, now timestamptz) RETURNS SETOF model.policy
	LANGUAGE sql STABLE AS $$
	SELECT subject, NULL, t.name, 0, NULL::timestamptz, 'UTC', model.time_of(subject, now)
	FROM tierlimit.tier t WHERE t.name = policy_without_key.tier AND subject IS NOT NULL
$$;

-- What applies to a call that comes to the gate, with a key's secret or with none
-- (NULL): to its address, and to who called, who is the last one.
CREATE FUNCTION model.policies_at_gate(key text, ip inet, now timestamptz) RETURNS model.policy[]
	LANGUAGE plpgsql STABLE AS $$
DECLARE
	caller model.policy;
BEGIN
	IF key IS NOT NULL THEN
		caller := model.policy_of(key, NULL, now);
	ELSE
		SELECT * INTO caller FROM model.policy_without_key(
			coalesce('anonymous ' || model.address(ip), 'nobody'), 'anonymous', now);
		caller.refusal := coalesce(caller.refusal, 1002);
	END IF;
	IF caller.refusal = 1001 THEN
		caller.key := NULL;
	END IF;
	RETURN ARRAY(SELECT p FROM model.policy_without_key('address ' || model.address(ip), 'ip', now) p) || caller;
END
$$;

-- Whose windows a name stands for: a key's; or an address's, as one that calls come
-- from and as who calls from there without a key.
CREATE FUNCTION model.policies_of(name text, tier text, now timestamptz) RETURNS model.policy[]
	LANGUAGE plpgsql STABLE AS $$
BEGIN
	IF name !~ '[.:]' THEN
		RETURN ARRAY[model.policy_of(name, tier, now)];
	END IF;
	RETURN ARRAY(SELECT p FROM model.policy_without_key('address ' || name, 'ip', now) p)
		|| ARRAY(SELECT p FROM model.policy_without_key('anonymous ' || name, 'anonymous', now) p);
END
$$;

-- The time of a call is the same for all of its subjects.
CREATE FUNCTION model.at(policies model.policy[]) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
	SELECT max(p.at) FROM unnest(policies) p
$$;

CREATE FUNCTION model.usage(policies model.policy[], late boolean)
	RETURNS TABLE (limit_name text, unit text, kind text, period interval,
		"limit" bigint, used bigint, remaining bigint, resets_at timestamptz)
	LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN QUERY
		SELECT l.name, l.unit, l.kind, l.period, l.max, h.used, greatest(l.max - h.used, 0),
			CASE l.kind WHEN 'calendar' THEN upper(span) ELSE h.oldest + l.period END
		FROM unnest(policies) WITH ORDINALITY AS p
			JOIN model.tier_limit l USING (tier),
			model.span(l.kind, l.period, p.anchor, p.timezone, p.at, late),
			LATERAL (SELECT coalesce(sum(units), 0)::bigint, min(at)
				FROM model.held(p.subject, l.unit, span, p.at)) AS h (used, oldest)
		ORDER BY l.period, p.ordinality, l.kind DESC, l.unit DESC;
END
$$;

-- When a window has room again: when that call leaves, the oldest such one, whose
-- younger ones leave as much room.
CREATE FUNCTION model.frees_at(subject text, kind text, period interval, unit text, span tstzrange,
		now timestamptz, room bigint, late boolean)
	RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
	IF room < 0 THEN
		RETURN 'infinity';
	ELSIF kind = 'calendar' THEN
		RETURN upper(span);
	END IF;
	RETURN (
		SELECT min(at) + period + CASE WHEN late THEN model.slot(period) ELSE '0' END
		FROM (
			SELECT at, sum(units) OVER (ORDER BY at DESC
				RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW EXCLUDE GROUP) AS younger
			FROM model.held(subject, unit, span, now)) AS h
		WHERE coalesce(younger, 0) <= room);
END
$$;

-- What each limit of each subject says of a call; subjects are asked in their order.
CREATE FUNCTION model.judged(policies model.policy[], cost bigint, late boolean)
	RETURNS TABLE (place bigint, name text, period interval, kind text, unit text, max bigint, enforce boolean,
		error_code integer, amount bigint, denies boolean, remaining bigint, frees_at timestamptz, reset_at timestamptz)
	LANGUAGE sql STABLE AS $$
	SELECT p.ordinality, l.name, l.period, l.kind, l.unit, l.max, l.enforce,
		coalesce(l.error_code, CASE
			WHEN p.subject LIKE 'address %' THEN 1011
			WHEN l.period <= '1 hour' THEN 1008
			WHEN l.period <= '1 day' THEN 1009
			ELSE 1010 END),
		a.amount, d.denies,
		greatest(l.max - h.used - CASE WHEN d.denies THEN 0 ELSE a.amount END, 0),
		CASE WHEN d.denies THEN model.frees_at(p.subject, l.kind, l.period, l.unit, span, t.now,
			CASE l.max WHEN 0 THEN -1 ELSE l.max - a.amount END, late) END,
		CASE WHEN l.kind = 'calendar' THEN upper(span)
			WHEN h.oldest IS NOT NULL THEN h.oldest + l.period
			WHEN NOT d.denies AND a.amount > 0 THEN t.now + l.period END
	FROM model.at(policies) AS t (now),
		unnest(policies) WITH ORDINALITY AS p
		JOIN model.tier_limit l USING (tier),
		model.span(l.kind, l.period, p.anchor, p.timezone, t.now, late),
		LATERAL (SELECT coalesce(sum(c.units), 0)::bigint, min(c.at)
			FROM model.held(p.subject, l.unit, span, t.now) c) AS h (used, oldest),
		LATERAL (SELECT CASE l.unit WHEN 'credits' THEN judged.cost ELSE 1 END) AS a (amount),
		LATERAL (SELECT l.enforce AND (l.max = 0 OR a.amount > 0 AND h.used + a.amount > l.max)) AS d (denies)
$$;

CREATE FUNCTION model.decide(policies model.policy[], cost bigint, now timestamptz, late boolean)
	RETURNS tierlimit.decision LANGUAGE plpgsql STABLE AS $$
DECLARE
	caller model.policy := policies[cardinality(policies)];
	decision tierlimit.decision;
	governing record;
BEGIN
	decision.key := caller.key;
	decision.tier := caller.tier;
	decision.cost := cost;
	decision.error_code := caller.refusal;
	decision.decided_at := now;
	IF caller.refusal = 0 THEN
		decision.decided_at := model.at(policies);
		SELECT *, max(CASE WHEN j.denies THEN j.frees_at END) OVER () AS all_free_at INTO governing
		FROM model.judged(policies, cost, late) j
		ORDER BY j.denies DESC,
			-- the first subject that denies; of its limits the one that frees last, or is longest
			CASE WHEN j.denies THEN j.place END, j.frees_at DESC, CASE WHEN j.denies THEN j.period END DESC,
			-- the one with fewest further calls, or the shortest; not a shadow
			j.enforce DESC, CASE WHEN NOT j.denies THEN j.remaining / nullif(j.amount, 0) END, j.period,
			-- the address before who called, a calendar after a sliding window, credits after requests
			j.place, j.kind DESC, j.unit DESC
		LIMIT 1;
		IF FOUND THEN
			decision.limit := governing.max;
			decision.remaining := governing.remaining;
			decision.limit_name := governing.name;
			decision.reset_at := governing.reset_at;
			IF governing.denies THEN
				decision.error_code := governing.error_code;
				-- all that deny have to be free
				IF governing.all_free_at < 'infinity' THEN
					decision.retry_after := greatest(1, ceil(extract(epoch FROM governing.all_free_at - now)));
				END IF;
			END IF;
		END IF;
	END IF;
	decision.allowed := decision.error_code = 0;
	decision.repeated := false;
	decision.http_status := 200;
	IF NOT decision.allowed THEN
		SELECT e.name, e.http_status INTO decision.error, decision.http_status
		FROM tierlimit.error_code e WHERE e.code = decision.error_code;
	END IF;
	RETURN decision;
END
$$;

--
-- What changes
--

CREATE PROCEDURE model.set_clocks(subjects text[], at timestamptz, forgotten boolean DEFAULT false) LANGUAGE sql AS $$
	INSERT INTO model.clock SELECT subject, at, forgotten FROM unnest(subjects) AS subject
		ON CONFLICT (subject) DO UPDATE SET at = excluded.at, forgotten = excluded.forgotten
$$;

CREATE FUNCTION model.subjects(policies model.policy[]) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
	SELECT array_agg(p.subject) FROM unnest(policies) p
$$;

-- Whose request_id it is.
CREATE FUNCTION model.caller(policies model.policy[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT coalesce('key ' || p.key, p.subject) FROM unnest(policies[cardinality(policies):]) p
$$;

-- Count an admitted call, for all of its subjects.
CREATE PROCEDURE model.admit(policies model.policy[], cost bigint, request_id text, answer tierlimit.decision)
	LANGUAGE sql AS $$
	WITH c AS (INSERT INTO model.call (caller, subject, request_id, answer)
		VALUES (model.caller(policies), (policies[cardinality(policies)]).subject, request_id, answer) RETURNING seq)
	INSERT INTO model.charge (seq, subject, tier, at, requests, credits)
		SELECT c.seq, p.subject, p.tier, model.at(policies), 1, cost FROM c, unnest(policies) p
$$;

-- One of the latest ids of who called.
CREATE FUNCTION model.recent_id(policies model.policy[]) RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT request_id FROM model.call c WHERE c.caller = model.caller(policies) AND request_id IS NOT NULL
	ORDER BY seq DESC OFFSET floor(random() * 3) LIMIT 1
$$;

-- The call of a request that is counted yet, or has cost nothing: NULL if there is none.
CREATE FUNCTION model.call_of(caller text, request_id text, since timestamptz) RETURNS model.request LANGUAGE sql STABLE AS $$
	SELECT r FROM model.request r
	WHERE (r.caller, r.request_id) = (call_of.caller, call_of.request_id) AND r.at > since AND (r.requests > 0 OR r.credits > 0)
	ORDER BY r.seq DESC LIMIT 1
$$;

-- The newest call of a request, whatever is counted of it yet.
CREATE FUNCTION model.newest_of(caller text, request_id text, since timestamptz) RETURNS model.request LANGUAGE sql STABLE AS $$
	SELECT r FROM model.request r
	WHERE (r.caller, r.request_id) = (newest_of.caller, newest_of.request_id) AND r.at > since
	ORDER BY r.seq DESC LIMIT 1
$$;

-- Since when something is given back: not what was counted in a calendar period that is
-- over.
CREATE FUNCTION model.running_since(policy model.policy) RETURNS timestamptz LANGUAGE sql STABLE AS $$
	SELECT coalesce((SELECT lower(model.calendar(l.period, policy.anchor, policy.timezone, policy.at))
		FROM tierlimit.tier_limit l WHERE l.tier = policy.tier AND l.kind = 'calendar'
		ORDER BY l.period DESC LIMIT 1), '-infinity')
$$;

-- What is given back of an amount: as much as was counted of the key, or if there
-- is none of the whole subject, in the time that the longest limit of all spans.
-- (Months are of any length here.)
CREATE FUNCTION model.given_back(policy model.policy, key text, unit text, amount bigint, at_most boolean)
	RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
	longest interval := greatest(max(l.period), '10 minutes') FROM tierlimit.tier_limit l;
	margin interval := CASE WHEN longest >= '28 days' THEN '3 days' ELSE '1 second' END;
BEGIN
	-- of a key that is not registered it is not known which period is over
	IF policy.tier IS NULL AND NOT at_most THEN
		RETURN 0;
	END IF;
	RETURN least(amount, (
		SELECT coalesce(sum(CASE unit WHEN 'credits' THEN c.credits ELSE c.requests END), 0)
		FROM model.charge c JOIN model.call USING (seq)
		WHERE c.subject = policy.subject AND (given_back.key IS NULL OR caller = 'key ' || given_back.key)
			AND c.at > policy.at - longest + CASE WHEN at_most THEN - margin ELSE margin END
			AND c.at >= model.running_since(policy)));
END
$$;

CREATE TYPE model.units AS (
	requests bigint,
	credits bigint
);

-- What the log says that a key, or an address by its name, was given back so far.
CREATE FUNCTION model.logged_back(name text) RETURNS model.units LANGUAGE sql VOLATILE AS $$
	SELECT coalesce(sum(-l.requests), 0)::bigint, coalesce(sum(-l.credits), 0)::bigint
	FROM tierlimit.request_log l
	WHERE CASE WHEN name ~ '[.:]' THEN l.key IS NULL AND l.ip <<= name::inet ELSE l.key = name END
		AND l.error_code = 0 AND (l.requests < 0 OR l.credits < 0)
$$;

-- Take units back of a subject's calls, newest first: those of a key, or of all.
CREATE PROCEDURE model.refund(subject text, key text, cost bigint, requests bigint) LANGUAGE plpgsql AS $$
DECLARE
	call record;
BEGIN
	FOR call IN SELECT c.* FROM model.charge c JOIN model.call USING (seq)
		WHERE c.subject = refund.subject AND (refund.key IS NULL OR caller = 'key ' || refund.key)
			AND (c.credits > 0 OR c.requests > 0) ORDER BY c.at DESC, c.seq DESC
	LOOP
		EXIT WHEN cost = 0 AND requests = 0;
		UPDATE model.charge c
			SET credits = c.credits - least(cost, c.credits),
				requests = c.requests - least(refund.requests, c.requests)
			WHERE (c.seq, c.subject) = (call.seq, call.subject);
		cost := cost - least(cost, call.credits);
		requests := requests - least(requests, call.requests);
	END LOOP;
END
$$;

--
-- The comparison
--

CREATE FUNCTION model.pick(anyarray) RETURNS anyelement LANGUAGE sql VOLATILE AS $$
	SELECT $1[1 + floor(random() * cardinality($1))::integer]
$$;

-- A duration of 1 microsecond or more, of any order of magnitude.
CREATE FUNCTION model.some_time(up_to interval) RETURNS interval LANGUAGE sql VOLATILE AS $$
	SELECT exp(random() * ln(extract(epoch FROM up_to)::float8 * 1e6)) * interval '1 microsecond'
$$;

CREATE FUNCTION model.some_cost() RETURNS bigint LANGUAGE sql VOLATILE AS $$
	SELECT CASE WHEN random() < 0.5 THEN 1 ELSE model.pick(ARRAY[0, 0, 1, 2, 2, 3, 4, 5, 7, 10, 20, 100]) END
$$;

-- How long a decision makes one wait.
CREATE FUNCTION model.wait(tierlimit.decision) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE WHEN ($1).allowed THEN 0 ELSE coalesce(($1).retry_after, 'infinity'::float8) END
$$;

-- The exact answer is the only right one; where calls may be kept together, so
-- is one in between that and the answer if all of them leave late.
CREATE FUNCTION model.is_right(answer tierlimit.decision, exact tierlimit.decision, late tierlimit.decision)
	RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF late IS NULL THEN
		RETURN answer IS NOT DISTINCT FROM exact;
	ELSIF answer.tier = 'exact' THEN
		-- what a larger limit has kept together may show in what is left, and in when the
		-- oldest call leaves, but denies nobody
		RETURN answer.allowed = exact.allowed AND (answer.allowed
			OR (answer.error_code, answer.limit_name, answer.retry_after, answer.decided_at)
				IS NOT DISTINCT FROM (exact.error_code, exact.limit_name, exact.retry_after, exact.decided_at));
	END IF;
	RETURN (answer.key, answer.tier, answer.cost, answer.decided_at)
			IS NOT DISTINCT FROM (exact.key, exact.tier, exact.cost, exact.decided_at)
		AND model.wait(answer) BETWEEN model.wait(exact) AND model.wait(late);
END
$$;

CREATE FUNCTION model.secret(key text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT 'secret of ' || key
$$;

-- A key comes, goes, or changes its tier or status.
CREATE PROCEDURE model.change_key(key text, tier text) LANGUAGE plpgsql AS $$
DECLARE
	registered boolean := EXISTS (SELECT FROM tierlimit.api_key k WHERE k.name = key);
	at timestamptz;
BEGIN
	IF registered AND random() < 0.9 THEN
		UPDATE tierlimit.api_key k
			SET tier = change_key.tier, status = CASE WHEN random() < 0.9 THEN 'active'
				ELSE model.pick(ARRAY['payment_required', 'payment_expired', 'disabled']) END
			WHERE k.name = key;
		RETURN;
	ELSIF registered THEN
		DELETE FROM tierlimit.api_key k WHERE k.name = key;
		COMMIT;
		-- what was counted for it is forgotten then
		UPDATE model.charge h SET requests = 0, credits = 0 WHERE h.subject = 'key ' || change_key.key;
		at := greatest(current_setting('tierlimit.now')::timestamptz,
			(SELECT c.at FROM model.clock c WHERE c.subject = 'key ' || change_key.key AND NOT c.forgotten));
		CALL model.set_clocks(ARRAY['key ' || key], at + interval '1 microsecond', true);
	ELSE
		INSERT INTO tierlimit.api_key (name, tier, account, billing_anchor, billing_timezone, key_hash)
			SELECT name, change_key.tier, account, anchor, timezone, sha256(model.secret(key)::bytea)
			FROM model.caller WHERE name = key;
	END IF;
END
$$;

-- A limit changes, to no more than it was first; one that was 0 opens again.
CREATE PROCEDURE model.change_limit() LANGUAGE plpgsql AS $$
DECLARE
	original model.original;
BEGIN
	UPDATE tierlimit.tier_limit l SET max = o.max
		FROM model.original o
		WHERE (o.tier, o.name) = (l.tier, l.name) AND l.max = 0;
	SELECT * INTO original FROM model.original ORDER BY random() LIMIT 1;
	UPDATE tierlimit.tier_limit l
		SET max = CASE WHEN random() < 0.5 THEN original.max ELSE floor(random() * original.max) END,
			enforce = original.enforce OR random() < 0.2
		WHERE (l.tier, l.name) = (original.tier, original.name);
END
$$;

-- A call that is counted: as check() knows it, or the gate.
CREATE FUNCTION model.call(at_gate boolean, key text, tier text, ip inet, cost bigint, request_id text)
	RETURNS tierlimit.decision LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	answer tierlimit.decision;
BEGIN
	IF at_gate THEN
		SELECT * INTO answer FROM tierlimit.authorize(model.secret(key), NULL, ip, cost, request_id);
	ELSE
		SELECT * INTO answer FROM tierlimit.check(key, tier, cost, NULL, request_id);
	END IF;
	RETURN answer;
END
$$;

-- Give units back of a key, or of an address by its name; all if there is no number
-- of requests.
CREATE PROCEDURE model.give_back(name text, policies model.policy[], cost bigint, requests integer,
		INOUT done text, INOUT got text, INOUT wanted text, INOUT is_right boolean, INOUT given model.units)
	LANGUAGE plpgsql AS $$
DECLARE
	is_reset boolean := requests IS NULL;
	-- a key's own calls; what comes from an address, whoever called
	of_key text := CASE WHEN NOT is_reset THEN (policies[1]).key END;
	before model.units;
	wanted_requests bigint := coalesce(requests, 9223372036854775807);
	wanted_credits bigint := CASE WHEN is_reset THEN 9223372036854775807 ELSE cost END;
	at_least model.units;
	at_most model.units;
	policy model.policy;
BEGIN
	PERFORM tierlimit.log_flush();
	before := model.logged_back(name);
	IF is_reset THEN
		done := format('reset(%L)', name);
		got := NULL;
		PERFORM tierlimit.reset(name);
	ELSE
		done := format('refund(%L, %s, %s)', name, cost, requests);
		got := tierlimit.refund(name, cost, requests);
	END IF;
	PERFORM tierlimit.log_flush();
	SELECT g.requests - before.requests AS requests, g.credits - before.credits AS credits
		INTO given FROM model.logged_back(name) AS g;
	at_least := (model.given_back(policies[1], of_key, 'requests', wanted_requests, false),
		model.given_back(policies[1], of_key, 'credits', wanted_credits, false));
	at_most := (model.given_back(policies[1], of_key, 'requests', wanted_requests, true),
		model.given_back(policies[1], of_key, 'credits', wanted_credits, true));
	wanted := concat_ws(' to ', at_least, at_most);
	is_right := coalesce(got::bigint = given.credits, true)
		AND given.requests BETWEEN at_least.requests AND at_most.requests
		AND given.credits BETWEEN at_least.credits AND at_most.credits;
	got := concat_ws(', ', got, given);
	FOREACH policy IN ARRAY policies LOOP
		IF is_reset THEN
			UPDATE model.charge c SET requests = 0, credits = 0 WHERE c.subject = policy.subject;
		ELSE
			CALL model.refund(policy.subject, of_key, given.credits, given.requests);
		END IF;
	END LOOP;
END
$$;

-- Do random operations at random times, and compare.  Where there is a tier for
-- addresses, these are asked for and given back as keys are.  The clock goes on by
-- up to pace at most times.  Not exact: windows may be fuller than they have slots, and
-- limits stay as they are.  Fillers: in between so many other keys are called,
-- under the tier 'filler', to have memory full; the clock does not go back then,
-- since it forgets denied calls along with their keys.
CREATE PROCEDURE model.play(seed integer, operations integer, pace interval, exact boolean,
		fillers integer DEFAULT 0)
	LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
	callers text[] := ARRAY(SELECT c.name FROM model.caller c ORDER BY c.name);
	tiers text[] := ARRAY(SELECT t.name FROM tierlimit.tier t
		WHERE t.name NOT IN ('filler', 'ip', 'anonymous') ORDER BY t.name);
	ips inet[] := ARRAY(SELECT o.ip FROM model.origin o ORDER BY o.ip) || NULL::inet;
	addresses text[] := model.addresses();
	first integer := (SELECT coalesce(sum(p.operations), 0) FROM model.played p);
	now timestamptz := greatest('2024-10-20 12:00:00+00', (SELECT max(until) FROM model.played),
		(SELECT max(at) FROM model.clock));
	back interval;
	filled integer := 0;
	op integer;
	die float8;
	key text;
	tier text;
	at_gate boolean;
	ip inet;
	name text;
	cost bigint;
	is_reset boolean;
	request_id text;
	known model.request;
	given model.units;
	edge timestamptz;
	policies model.policy[];
	policy model.policy;
	subjects text[];
	at timestamptz;
	answer tierlimit.decision;
	expected tierlimit.decision;
	expected_late tierlimit.decision;
	is_right boolean;
	got text;
	wanted text;
	done text;
	recent text[] := array_fill(NULL::text, ARRAY[15]);
	admitted integer := 0;
	denied integer := 0;
	denied_late integer := 0;
BEGIN
	PERFORM setseed(seed / 2147483648.0);
	UPDATE model.clock SET forgotten = true;
	INSERT INTO model.original
		SELECT * FROM tierlimit.tier_limit l
		WHERE l.tier <> 'filler' AND NOT EXISTS (SELECT FROM model.original);
	PERFORM set_config('tierlimit.now', now::text, false);
	FOREACH key IN ARRAY callers LOOP
		CALL model.change_key(key, model.pick(tiers));
	END LOOP;

	FOR op IN first + 1 .. first + operations LOOP
		-- the clock: as it was, on, on to where the last answer changes, back
		die := random();
		IF die < 0.70 THEN
			now := now + CASE WHEN exact THEN model.some_time(pace) ELSE random() * pace END;
		ELSIF die < 0.72 THEN
			now := now + model.some_time(100 * pace);
		ELSIF die < 0.86 THEN
			edge := CASE WHEN random() < 0.5
				THEN expected.reset_at + model.pick(ARRAY[-1, 0, 1]) * interval '1 microsecond'
				ELSE expected.decided_at + (expected.retry_after - model.pick(ARRAY[0, 1])) * interval '1 second' END;
			IF edge BETWEEN now AND now + 10 * pace THEN
				now := edge;
			END IF;
		ELSIF die < 0.88 AND fillers = 0 THEN
			-- not before a reset, which forgets the clock
			-- nor by so much that the key's own time is not believed (023_clock.pl)
			back := model.some_time(pace);
			IF NOT EXISTS (SELECT FROM model.clock c
				WHERE c.forgotten AND c.at > now - back OR c.at > now - back + interval '0.9 seconds') THEN
				now := now - back;
			END IF;
		END IF;
		PERFORM set_config('tierlimit.now', now::text, false);
		IF fillers > 0 AND random() < 0.3 THEN
			PERFORM FROM tierlimit.check_many(
				ARRAY(SELECT 'filler ' || filled + i FROM generate_series(1, fillers) i), 'filler');
			filled := filled + fillers;
		END IF;

		-- often the same key again
		IF random() < 0.6 THEN
			key := model.pick(callers);
		END IF;
		tier := CASE WHEN random() < 0.3 THEN model.pick(tiers) END;
		cost := model.some_cost();
		die := random();
		-- A call may come to the gate, with a secret or without; and of what is looked at
		-- or given back, some is an address's.
		at_gate := die >= 0.10 AND die < 0.78 AND random() < 0.4;
		ip := CASE WHEN at_gate THEN model.pick(ips) END;
		name := CASE WHEN die >= 0.78 AND random() < 0.3 THEN coalesce(model.pick(addresses), key) ELSE key END;
		IF at_gate THEN
			name := CASE WHEN random() < 0.75 THEN key END;
			policies := model.policies_at_gate(name, ip, now);
		ELSE
			policies := model.policies_of(name, CASE WHEN die < 0.84 AND name = key THEN tier END, now);
		END IF;
		-- What counts or gives back comes later than what its subjects did before, so
		-- that it is known which call is the newest.
		IF die >= 0.10 AND (die < 0.78 OR die >= 0.84) THEN
			now := greatest(now, model.at(policies) + interval '1 microsecond');
			PERFORM set_config('tierlimit.now', now::text, false);
			policies := CASE WHEN at_gate THEN model.policies_at_gate(name, ip, now)
				ELSE model.policies_of(name, CASE WHEN die < 0.84 THEN tier END, now) END;
		END IF;
		policy := policies[cardinality(policies)];
		subjects := model.subjects(policies);
		at := model.at(policies);
		is_right := true;
		got := NULL;

		IF die < 0.78 THEN
			-- sometimes with an id, which may be one of before
			request_id := NULL;
			known := NULL;
			IF die >= 0.20 AND random() < 0.3 THEN
				request_id := coalesce(CASE WHEN random() < 0.5 THEN model.recent_id(policies) END, 'id ' || op);
				known := model.call_of(model.caller(policies), request_id, now - interval '10 minutes');
				cost := coalesce((known.answer).cost, cost);
			END IF;
			expected := model.decide(policies, cost, now, false);
			expected_late := CASE WHEN NOT exact THEN model.decide(policies, cost, now, true) END;
			IF die < 0.10 THEN
				done := 'peek';
				SELECT * INTO answer FROM tierlimit.peek(key, tier, cost);
			ELSIF die < 0.20 THEN
				done := 'rolled back';
				BEGIN
					answer := model.call(at_gate, name, tier, ip, cost, NULL);
					RAISE no_data_found;
				EXCEPTION WHEN no_data_found THEN
				END;
			ELSE
				done := 'call';
				answer := model.call(at_gate, name, tier, ip, cost, request_id);
			END IF;
			is_right := model.is_right(answer, expected, expected_late);
			IF known.seq IS NOT NULL AND policy.refusal = 0 THEN
				-- (limits may have changed since)
				expected := known.answer;
				is_right := (answer.allowed, answer.repeated, answer.decided_at, answer.cost)
					= (true, true, expected.decided_at, expected.cost);
			END IF;
			got := answer;
			wanted := concat_ws(' to ', expected, expected_late);
			IF done <> 'peek' AND policy.refusal = 0 AND known.seq IS NULL THEN
				CALL model.set_clocks(subjects, at);
				IF answer.allowed THEN
					CALL model.admit(policies, cost, request_id, answer);
					admitted := admitted + 1;
				ELSE
					denied := denied + 1;
					denied_late := denied_late + expected.allowed::integer;
				END IF;
			END IF;
			done := CASE WHEN at_gate THEN format('authorize, %s: %L, %L, %s, %L', done, name, ip, cost, request_id)
				ELSE format('check, %s: %L, %L, %s, %L', done, key, tier, cost, request_id) END;

		ELSIF die < 0.84 THEN
			IF name <> key THEN
				-- as one or the other, or both
				tier := model.pick(ARRAY['ip', 'anonymous', NULL]);
				policies := ARRAY(SELECT p FROM unnest(policies) p WHERE tier IS NULL OR p.tier = tier);
			END IF;
			done := format('usage(%L, %L)', name, tier);
			got := (SELECT string_agg(u::text, ' ') FROM tierlimit.usage(name, tier) u);
			wanted := (SELECT string_agg(u::text, ' ') FROM model.usage(policies, false) u);
			IF exact THEN
				is_right := got IS NOT DISTINCT FROM wanted;
			ELSE
				wanted := concat_ws(' to ', wanted,
					(SELECT string_agg(u::text, ' ') FROM model.usage(policies, true) u));
				is_right := (
					SELECT coalesce(bool_and(coalesce(u.used BETWEEN l.used AND h.used, false)), true)
					FROM tierlimit.usage(name, tier) u
						FULL JOIN model.usage(policies, false) l USING (limit_name)
						FULL JOIN model.usage(policies, true) h USING (limit_name));
			END IF;

		ELSIF die < 0.865 THEN
			request_id := model.recent_id(policies);
			known := model.newest_of(model.caller(policies), request_id, now - interval '10 minutes');
			CONTINUE WHEN known.seq IS NULL;
			-- (that of another subject, or of a period that is over, is for other tests)
			CONTINUE WHEN known.subject <> policy.subject OR policy.tier IS NULL
				OR known.at < model.running_since(policy);
			-- (also later than what its address did before)
			subjects := ARRAY(SELECT c.subject FROM model.charge c WHERE c.seq = known.seq);
			-- (the log may say that an address counts it which the model doesn't ask about)
			CONTINUE WHEN cardinality(subjects) = 1 AND known.requests = 0 AND known.credits = 0;
			now := (SELECT max(model.time_of(s, now)) + interval '1 microsecond' FROM unnest(subjects) s);
			PERFORM set_config('tierlimit.now', now::text, false);
			done := format('refund(%L, request_id => %L)', name, request_id);
			got := tierlimit.refund(name, request_id => request_id);
			wanted := known.credits;
			is_right := got = wanted;
			-- wherever it was charged, and is counted yet
			IF EXISTS (SELECT FROM model.charge c WHERE c.seq = known.seq AND (c.requests > 0 OR c.credits > 0)) THEN
				UPDATE model.charge c SET requests = 0, credits = 0 WHERE c.seq = known.seq;
				CALL model.set_clocks(subjects, now + interval '1 microsecond');
			END IF;

		ELSIF die < 0.915 THEN
			-- no reset before the subject's time has come, which it would forget
			is_reset := die >= 0.91 AND at = now;
			CALL model.give_back(name, policies, cost,
				CASE WHEN NOT is_reset THEN model.pick(ARRAY[0, 1, 1, 1, 2, 5, 50]) END, done, got, wanted, is_right, given);
			-- what comes after something was given back comes later
			IF given.requests <> 0 OR given.credits <> 0 OR is_reset THEN
				at := at + interval '1 microsecond';
			END IF;
			CALL model.set_clocks(subjects, at);

		ELSIF die < 0.97 THEN
			done := format('change of key %L', key);
			CALL model.change_key(key, model.pick(tiers));
			-- (who has no limits does not ask the log when their key was deleted)
			now := greatest(now, (SELECT c.at FROM model.clock c WHERE c.subject = 'key ' || key AND c.forgotten));
		ELSIF exact THEN
			done := 'change of a limit';
			CALL model.change_limit();
		END IF;

		recent := recent[2:] || format('%s at %s: %s is %s', op, now, done, got);
		IF is_right IS NOT TRUE THEN
			RAISE EXCEPTION E'operation % at %: %\nis     %\nnot    %', op, now, done, got, wanted
				USING DETAIL = array_to_string(recent, E'\n'), HINT = format('seed %s', seed);
		END IF;
		-- changes are in force for their own session before that as well
		IF die >= 0.915 AND random() < 0.5 OR random() < 0.02 THEN
			COMMIT;
		END IF;
	END LOOP;
	INSERT INTO model.played VALUES (now, operations);
	RAISE NOTICE '% admitted, % denied, % of them late', admitted, denied, denied_late;
END
$$;

-- What usage() and peek() answer otherwise than the model, of keys under any tier of
-- theirs and of addresses, when the play has ended.  It changes nothing, so it serves on a
-- standby.
CREATE FUNCTION model.differences() RETURNS SETOF text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	now timestamptz := greatest((SELECT max(until) FROM model.played), (SELECT max(at) FROM model.clock));
BEGIN
	PERFORM set_config('tierlimit.now', now::text, false);
	RETURN QUERY
		WITH asked (name, tier) AS (
			SELECT c.name, t.name FROM model.caller c, 
				(SELECT t.name FROM tierlimit.tier t WHERE t.name NOT IN ('ip', 'anonymous') UNION ALL SELECT NULL) t
			UNION ALL SELECT a, NULL FROM unnest(model.addresses()) a)
		SELECT format('%s is %s, not %s', what, got, wanted)
		FROM (
			SELECT format('usage(%L, %L)', name, tier) AS what,
				(SELECT string_agg(u::text, ' ') FROM tierlimit.usage(name, tier) u) AS got,
				(SELECT string_agg(u::text, ' ') FROM model.usage(model.policies_of(name, tier, now), false) u) AS wanted
			FROM asked
			UNION ALL SELECT format('peek(%L, %L, %s)', name, tier, cost),
				(SELECT d::text FROM tierlimit.peek(name, tier, cost) d),
				model.decide(model.policies_of(name, tier, now), cost, now, false)::text
			FROM asked, (VALUES (1::bigint), (7)) AS c (cost) WHERE name !~ '[.:]') AS answers
		WHERE got IS DISTINCT FROM wanted;
END
$$;

-- Have the latest requests of keys repeated: how many were answered again, as it was
-- said at first, of how many that are known yet.
CREATE FUNCTION model.repeated(OUT answered bigint, OUT known bigint) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	now timestamptz := greatest((SELECT max(until) FROM model.played), (SELECT max(at) FROM model.clock));
BEGIN
	PERFORM set_config('tierlimit.now', now::text, false);
	SELECT count(*) FILTER (WHERE d.allowed AND d.repeated AND d.decided_at = (r.answer).decided_at AND d.cost = (r.answer).cost),
		count(*) INTO answered, known
	FROM (SELECT DISTINCT caller, request_id FROM model.call WHERE caller LIKE 'key %' AND request_id IS NOT NULL) AS i,
		model.call_of(caller, request_id, now - interval '10 minutes') r
		JOIN tierlimit.api_key k ON k.status = 'active' AND r.caller = 'key ' || k.name,
		tierlimit.check(k.name, NULL, (r.answer).cost, NULL, r.request_id) d
	WHERE r.seq IS NOT NULL;
END
$$;

-- Over all that was played: how many calls were admitted over a limit of theirs,
-- provided that limits never changed.
CREATE FUNCTION model.admitted_over(tierlimit.tier_limit) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
	l ALIAS FOR $1;
BEGIN
	RETURN (
		SELECT count(*)
		FROM (
			SELECT c.tier, u.units, sum(u.units) OVER (PARTITION BY c.subject ORDER BY c.seq)
				- coalesce(sum(u.units) OVER (PARTITION BY c.subject ORDER BY c.at
					RANGE BETWEEN UNBOUNDED PRECEDING AND l.period PRECEDING), 0) AS used
			FROM model.charge c,
				LATERAL (SELECT CASE l.unit WHEN 'credits' THEN c.credits ELSE c.requests END) AS u (units)) AS calls
		WHERE calls.tier = l.tier AND calls.units > 0 AND calls.used > l.max);
END
$$;

--
-- Clocks that were wrong
--
-- Here the clock is the server's, and goes on by itself while calls are made; so
-- times are compared to half a minute, and all that matters is whole minutes apart:
-- by how much a clock was wrong, and, between two rounds of calls, how much time has
-- passed.  Limits end when nothing else happens, half a minute or more after whole ones.
--

-- When the latest round ended.
CREATE TABLE model.round (
	ended timestamptz NOT NULL
);
INSERT INTO model.round VALUES (clock_timestamp());

-- Who was called by a clock that was wrong, and not since by one that is right.
CREATE TABLE model.ahead (
	subject text PRIMARY KEY
);

-- The server was off for so many minutes, or its clock was ahead for the last ones:
-- what is logged is that much older, or what was logged then that much later.
CREATE PROCEDURE model.next_round(minutes_off integer, minutes_ahead integer, of_the_last integer) LANGUAGE plpgsql AS $$
DECLARE
	now timestamptz := clock_timestamp();
	-- since whole minutes are to have passed
	passed interval := minutes_off * interval '1 minute' - (now - (SELECT ended FROM model.round));
	ahead interval := minutes_ahead * interval '1 minute';
	wrong_since timestamptz := now - of_the_last * interval '1 minute' - interval '30 seconds';
BEGIN
	UPDATE tierlimit.request_log SET at = at - passed;
	UPDATE model.charge SET at = at - passed;
	UPDATE tierlimit.request_log SET at = at + ahead WHERE at > wrong_since;
	UPDATE model.charge SET at = at + ahead WHERE at > wrong_since;
	INSERT INTO model.ahead SELECT DISTINCT subject FROM model.charge WHERE at > now ON CONFLICT DO NOTHING;
	UPDATE tierlimit.api_key SET billing_anchor = now - interval '100 days 10 hours 20 minutes 30 seconds';
END
$$;

-- Whose calls were found to be later than now when another subject called: they are
-- called by a clock that is right next, so that they find it, too.
CREATE TABLE model.moved (
	subject text PRIMARY KEY
);

-- These are called by a clock that is right: if what they counted is later than now, all
-- that is counts as of now, in its order.
CREATE PROCEDURE model.heal(subjects text[], now timestamptz) LANGUAGE sql AS $$
	WITH later AS (
			SELECT seq, row_number() OVER (ORDER BY max(at), seq) AS place FROM model.charge
			WHERE at > now + interval '1 second' AND EXISTS (SELECT FROM model.charge
				WHERE subject = ANY (subjects) AND at > now + interval '1 second') GROUP BY seq),
		moved AS (
			UPDATE model.charge c SET at = now + place * interval '1 microsecond'
			FROM later WHERE c.seq = later.seq RETURNING subject)
	INSERT INTO model.moved SELECT DISTINCT subject FROM moved ON CONFLICT DO NOTHING;
	DELETE FROM model.moved WHERE subject = ANY (subjects);
	DELETE FROM model.ahead WHERE subject = ANY (subjects)
$$;

CREATE FUNCTION model.is_close(a timestamptz, b timestamptz) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
	SELECT a IS NOT DISTINCT FROM b OR coalesce(a BETWEEN b - interval '30 seconds' AND b + interval '30 seconds', false)
$$;

-- Whether an answer is right, its times to half a minute.
CREATE FUNCTION model.is_close(answer tierlimit.decision, expected tierlimit.decision) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
	moment timestamptz := '2000-01-01 00:00:00+00';
	same tierlimit.decision := answer;
BEGIN
	same.decided_at := expected.decided_at;
	same.reset_at := expected.reset_at;
	same.retry_after := expected.retry_after;
	RETURN same IS NOT DISTINCT FROM expected
		AND model.is_close(answer.decided_at, expected.decided_at)
		AND model.is_close(answer.reset_at, expected.reset_at)
		AND model.is_close(moment + answer.retry_after * interval '1 second', moment + expected.retry_after * interval '1 second');
END
$$;

-- How usage() differs from the model's, if it does.
CREATE FUNCTION model.usage_differs(name text, now timestamptz) RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT string_agg(format('%s, not %s', g, w), ' ')
	FROM tierlimit.usage(name) g FULL JOIN model.usage(model.policies_of(name, NULL, now), false) w
		USING (limit_name, unit, kind, period, "limit", used, remaining)
	WHERE NOT coalesce(model.is_close(g.resets_at, w.resets_at), false) OR g.limit_name IS NULL OR w.limit_name IS NULL
$$;

-- Do random operations, of which some are by a clock that is ahead.  That is a session's
-- own, which a call of the server's clock does not believe any more than one that was
-- set back; what it has logged is later than now.
CREATE PROCEDURE model.play_wrong_clock(seed integer, operations integer) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
	callers text[] := ARRAY(SELECT c.name FROM model.caller c ORDER BY c.name);
	ips inet[] := ARRAY(SELECT o.ip FROM model.origin o ORDER BY o.ip) || NULL::inet;
	tiers text[] := ARRAY(SELECT t.name FROM tierlimit.tier t WHERE t.name NOT IN ('ip', 'anonymous') ORDER BY t.name);
	first integer := (SELECT coalesce(sum(p.operations), 0) FROM model.played p);
	ahead interval := '0';
	now timestamptz;
	key text;
	tier text;
	at_gate boolean;
	ip inet;
	caller text;
	name text;
	cost bigint;
	request_id text;
	is_wrong boolean;
	gave_back boolean;
	known model.request;
	policies model.policy[];
	subjects text[];
	given model.units;
	answer tierlimit.decision;
	expected tierlimit.decision;
	is_right boolean;
	got text;
	wanted text;
	done text;
	recent text[] := array_fill(NULL::text, ARRAY[15]);
	wrong integer := 0;
	healed integer := 0;
	denied integer := 0;
BEGIN
	PERFORM setseed(seed / 2147483648.0);
	FOR op IN first + 1 .. first + operations LOOP
		-- who calls
		IF key IS NULL OR random() < 0.6 THEN
			key := model.pick(callers);
		END IF;
		at_gate := random() < 0.6;
		ip := CASE WHEN at_gate THEN model.pick(ips) END;
		caller := CASE WHEN at_gate AND random() < 0.3 THEN NULL ELSE key END;
		tier := CASE WHEN NOT at_gate AND random() < 0.3 THEN model.pick(tiers) END;
		cost := model.pick(ARRAY[0, 1, 1, 2, 3, 5, 10]);
		-- by which clock: often the same again
		IF random() < 0.3 THEN
			ahead := CASE WHEN random() < 0.6 THEN 0 ELSE model.pick(ARRAY[1, 2, 5, 20, 60, 100, 1500, 100000]) END * interval '1 minute';
		END IF;
		PERFORM set_config('tierlimit.now', '', false);

		-- First something of who calls is looked at or given back, by a clock that is right.
		-- (Nothing is given back of who was called by a wrong one last: 023_clock.pl.)
		name := coalesce(caller, model.address(ip));
		now := clock_timestamp();
		policies := model.policies_of(name, NULL, now);
		subjects := model.subjects(policies);
		is_right := true;
		gave_back := false;
		got := NULL;
		done := NULL;
		IF name IS NULL THEN
			NULL;
		ELSIF random() < 0.3 THEN
			done := format('usage(%L)', name);
			got := model.usage_differs(name, now);
			is_right := got IS NULL;
		ELSIF EXISTS (SELECT FROM model.ahead a WHERE a.subject = ANY (model.subjects(policies))) THEN
			NULL;
		ELSIF random() < 0.15 THEN
			gave_back := true;
			CALL model.give_back(name, policies, cost, model.pick(ARRAY[0, 1, 1, 2, 5, NULL]), done, got, wanted, is_right, given);
			-- how much a reset finds depends on the clock that counted it; that nothing is left
			-- does not
			is_right := is_right OR done LIKE 'reset%';
		ELSIF random() < 0.2 THEN
			request_id := model.recent_id(policies);
			known := model.newest_of(model.caller(policies), request_id, now - interval '585 seconds');
			IF known.at >= model.running_since(policies[cardinality(policies)])
				AND NOT EXISTS (SELECT FROM model.charge JOIN model.ahead USING (subject) WHERE seq = known.seq) THEN
				gave_back := true;
				done := format('refund(%L, request_id => %L)', name, request_id);
				got := tierlimit.refund(name, request_id => request_id);
				wanted := known.credits;
				is_right := got = wanted;
				UPDATE model.charge c SET requests = 0, credits = 0 WHERE c.seq = known.seq;
				subjects := ARRAY(SELECT c.subject FROM model.charge c WHERE c.seq = known.seq);
			END IF;
		END IF;
		IF gave_back THEN
			-- what the log has of that counts nothing, but may be later than now, too
			WITH c AS (INSERT INTO model.call (caller, subject) VALUES ('', '') RETURNING seq)
			INSERT INTO model.charge SELECT c.seq, s, '', now, 0, 0 FROM c, unnest(subjects) s;
		END IF;
		IF done IS NOT NULL THEN
			recent := recent[2:] || format('%s at %s: %s is %s', op, now, done, got);
		END IF;

		-- Then there is a call, by whichever clock: not by one that others have been further
		-- ahead of, or what they counted would have to heal twice.
		now := clock_timestamp() + CASE WHEN gave_back THEN '0' ELSE ahead END;
		policies := CASE WHEN at_gate THEN model.policies_at_gate(caller, ip, now)
			ELSE model.policies_of(caller, tier, now) END;
		is_wrong := ahead > '0' AND NOT gave_back AND NOT EXISTS (SELECT FROM model.charge c
			WHERE c.subject = ANY (model.subjects(policies)) AND c.at > now)
			AND NOT EXISTS (SELECT FROM model.moved m WHERE m.subject = ANY (model.subjects(policies)));
		IF is_wrong THEN
			-- (what was found to be later than now was so before this call)
			PERFORM tierlimit.log_flush();
			PERFORM set_config('tierlimit.now', now::text, false);
			INSERT INTO model.ahead SELECT unnest(model.subjects(policies)) ON CONFLICT DO NOTHING;
			wrong := wrong + 1;
		ELSE
			now := clock_timestamp();
			policies := CASE WHEN at_gate THEN model.policies_at_gate(caller, ip, now)
			ELSE model.policies_of(caller, tier, now) END;
		END IF;
		request_id := NULL;
		known := NULL;
		IF NOT gave_back AND random() < 0.4 THEN
			-- (an id is used for one call only, as old ones may come to be of now)
			IF NOT is_wrong AND random() < 0.5 THEN
				request_id := model.recent_id(policies);
				known := model.call_of(model.caller(policies), request_id, now - interval '585 seconds');
			END IF;
			IF known.seq IS NULL THEN
				request_id := 'id ' || op;
			END IF;
			cost := coalesce((known.answer).cost, cost);
		END IF;
		IF known.seq IS NULL AND NOT is_wrong THEN
			healed := healed + (SELECT count(*) FROM model.charge c
				WHERE c.subject = ANY (model.subjects(policies)) AND c.at > now + interval '1 second');
			CALL model.heal(model.subjects(policies), now);
		END IF;
		IF is_right THEN
			expected := model.decide(policies, cost, now, false);
			done := CASE WHEN at_gate THEN format('authorize(%L, %L, %s, %L)', caller, ip, cost, request_id)
				ELSE format('check(%L, %L, %s, %L)', caller, tier, cost, request_id) END
				|| CASE WHEN is_wrong THEN format(' by a clock that is %s ahead', ahead) ELSE '' END;
			IF NOT is_wrong AND NOT at_gate AND random() < 0.2 THEN
				SELECT * INTO answer FROM tierlimit.peek(caller, tier, cost);
				is_right := model.is_close(answer, expected);
				got := 'before: ' || answer;
				wanted := expected;
			END IF;
		END IF;
		IF is_right THEN
			answer := model.call(at_gate, caller, tier, ip, cost, request_id);
			got := answer;
			wanted := expected;
			IF known.seq IS NOT NULL THEN
				is_right := (answer.allowed, answer.repeated, answer.cost) = (true, true, cost);
			ELSE
				is_right := model.is_close(answer, expected);
				policies[cardinality(policies)].at := answer.decided_at;
				IF answer.allowed THEN
					CALL model.admit(policies, cost, request_id, answer);
				END IF;
				denied := denied + (NOT answer.allowed)::integer;
			END IF;
		END IF;
		recent := recent[2:] || format('%s at %s: %s is %s', op, now, done, got);
		IF is_right IS NOT TRUE THEN
			RAISE EXCEPTION E'operation % at %: %\nis     %\nnot    %', op, now, done, got, wanted
				USING DETAIL = array_to_string(recent, E'\n'), HINT = format('seed %s', seed);
		END IF;
	END LOOP;
	PERFORM set_config('tierlimit.now', '', false);
	INSERT INTO model.played VALUES (clock_timestamp(), operations);
	UPDATE model.round SET ended = clock_timestamp();
	RAISE NOTICE '% by a clock that was wrong, % counted as of now, % denied', wrong, healed, denied;
END
$$;
