-- The limits by plain SQL, and play(), which compares tierlimit with them.
--
-- The model keeps every admitted call in a table, and computes each answer anew
-- from the calls of its span and from the configuration tables, in the words of
-- the interface's description and with no thought of speed.  Whoever is counted
-- is a subject here: 'key ...' or 'account ...'.
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

-- Admitted calls, less what was refunded of them.
CREATE TABLE model.call (
	seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	subject text NOT NULL,
	key text NOT NULL,
	tier text NOT NULL,
	at timestamptz NOT NULL,
	requests bigint NOT NULL,
	credits bigint NOT NULL,
	request_id text,
	answer tierlimit.decision
);
CREATE INDEX ON model.call (subject, at);
CREATE INDEX ON model.call (key, request_id);

-- When a subject's latest decision was made.  After a reset that may be
-- forgotten, as denied calls are by a restart.
CREATE TABLE model.clock (
	subject text PRIMARY KEY,
	at timestamptz NOT NULL,
	forgotten boolean NOT NULL
);

-- Where an earlier play ended.
CREATE TABLE model.played (
	until timestamptz NOT NULL
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

-- The calls that a window of a subject counts.
CREATE FUNCTION model.held(subject text, unit text, span tstzrange)
	RETURNS TABLE (at timestamptz, units bigint) LANGUAGE sql STABLE AS $$
	SELECT c.at, u.units
	FROM model.call c,
		LATERAL (SELECT CASE held.unit WHEN 'credits' THEN c.credits ELSE c.requests END) AS u (units)
	WHERE c.subject = held.subject AND c.at <@ span AND c.at >= lower(span) AND u.units > 0
$$;

--
-- What is answered
--

CREATE TYPE model.policy AS (
	subject text,
	tier text,
	refusal integer,
	anchor timestamptz,
	timezone text,
	at timestamptz
);

-- What applies to a key.
CREATE FUNCTION model.policy_of(key text, tier text, now timestamptz) RETURNS model.policy
	LANGUAGE plpgsql STABLE AS $$
DECLARE
	registered tierlimit.api_key;
	policy model.policy;
BEGIN
	SELECT * INTO registered FROM tierlimit.api_key k WHERE k.name = key;
	policy.subject := coalesce('account ' || registered.account, 'key ' || key);
	policy.tier := coalesce(tier, registered.tier);
	policy.refusal := CASE
		WHEN policy.tier IS NULL THEN 1001
		WHEN registered.status = 'payment_required' THEN 1003
		WHEN registered.status = 'payment_expired' THEN 1004
		WHEN registered.status = 'disabled' THEN 1007
		ELSE 0 END;
	policy.anchor := registered.billing_anchor;
	policy.timezone := coalesce(registered.billing_timezone, 'UTC');
	policy.at := greatest(now, (SELECT c.at FROM model.clock c
		WHERE c.subject = policy.subject AND NOT c.forgotten));
	RETURN policy;
END
$$;

CREATE FUNCTION model.usage(key text, tier text, now timestamptz, late boolean)
	RETURNS TABLE (limit_name text, unit text, kind text, period interval,
		"limit" bigint, used bigint, remaining bigint, resets_at timestamptz)
	LANGUAGE plpgsql STABLE AS $$
DECLARE
	policy model.policy := model.policy_of(key, tier, now);
BEGIN
	RETURN QUERY
		SELECT l.name, l.unit, l.kind, l.period, l.max, h.used, greatest(l.max - h.used, 0),
			CASE l.kind WHEN 'calendar' THEN upper(span) ELSE h.oldest + l.period END
		FROM model.tier_limit l,
			model.span(l.kind, l.period, policy.anchor, policy.timezone, policy.at, late),
			LATERAL (SELECT coalesce(sum(units), 0)::bigint, min(at)
				FROM model.held(policy.subject, l.unit, span)) AS h (used, oldest)
		WHERE l.tier = policy.tier
		ORDER BY l.period, l.kind DESC, l.unit DESC;
END
$$;

-- When a window has room again: when that call leaves, the oldest such one, whose
-- younger ones leave as much room.
CREATE FUNCTION model.frees_at(subject text, kind text, period interval, unit text, span tstzrange,
		room bigint, late boolean)
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
			FROM model.held(subject, unit, span)) AS h
		WHERE coalesce(younger, 0) <= room);
END
$$;

CREATE FUNCTION model.decide(key text, tier text, cost bigint, now timestamptz, late boolean)
	RETURNS tierlimit.decision LANGUAGE plpgsql STABLE AS $$
DECLARE
	policy model.policy := model.policy_of(key, tier, now);
	decision tierlimit.decision;
	governing record;
BEGIN
	decision.key := key;
	decision.tier := policy.tier;
	decision.cost := cost;
	decision.error_code := policy.refusal;
	decision.decided_at := now;
	IF policy.refusal = 0 THEN
		decision.decided_at := policy.at;
		SELECT * INTO governing
		FROM (
			SELECT l.name, l.period, l.kind, l.unit, l.max, l.enforce, l.error_code, a.amount, d.denies,
				greatest(l.max - h.used - CASE WHEN d.denies THEN 0 ELSE a.amount END, 0) AS remaining,
				CASE WHEN d.denies THEN model.frees_at(policy.subject, l.kind, l.period, l.unit, span,
					CASE l.max WHEN 0 THEN -1 ELSE l.max - a.amount END, late) END AS frees_at,
				CASE WHEN l.kind = 'calendar' THEN upper(span)
					WHEN h.oldest IS NOT NULL THEN h.oldest + l.period
					WHEN NOT d.denies AND a.amount > 0 THEN policy.at + l.period END AS reset_at
			FROM model.tier_limit l,
				model.span(l.kind, l.period, policy.anchor, policy.timezone, policy.at, late),
				LATERAL (SELECT coalesce(sum(units), 0)::bigint, min(at)
					FROM model.held(policy.subject, l.unit, span)) AS h (used, oldest),
				LATERAL (SELECT CASE l.unit WHEN 'credits' THEN decide.cost ELSE 1 END) AS a (amount),
				LATERAL (SELECT l.enforce AND (l.max = 0 OR a.amount > 0 AND h.used + a.amount > l.max)) AS d (denies)
			WHERE l.tier = policy.tier) AS judged
		ORDER BY denies DESC,
			-- the denying one that frees last, or is longest
			frees_at DESC, CASE WHEN denies THEN period END DESC,
			-- the one with fewest further calls, or the shortest; not a shadow
			enforce DESC, CASE WHEN NOT denies THEN remaining / nullif(amount, 0) END, period,
			-- a calendar after a sliding window, credits after requests
			kind DESC, unit DESC
		LIMIT 1;
		IF FOUND THEN
			decision.limit := governing.max;
			decision.remaining := governing.remaining;
			decision.limit_name := governing.name;
			decision.reset_at := governing.reset_at;
			IF governing.denies THEN
				decision.error_code := coalesce(governing.error_code, CASE
					WHEN governing.period <= '1 hour' THEN 1008
					WHEN governing.period <= '1 day' THEN 1009
					ELSE 1010 END);
				IF governing.frees_at < 'infinity' THEN
					decision.retry_after := greatest(1, ceil(extract(epoch FROM governing.frees_at - now)));
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

CREATE PROCEDURE model.set_clock(subject text, at timestamptz, forgotten boolean DEFAULT false) LANGUAGE sql AS $$
	INSERT INTO model.clock VALUES (subject, at, forgotten)
		ON CONFLICT (subject) DO UPDATE SET at = excluded.at, forgotten = excluded.forgotten
$$;

-- Count an admitted call.
CREATE PROCEDURE model.admit(policy model.policy, key text, cost bigint, request_id text,
		answer tierlimit.decision) LANGUAGE sql AS $$
	INSERT INTO model.call (subject, key, tier, at, requests, credits, request_id, answer)
		VALUES (policy.subject, key, policy.tier, policy.at, 1, cost, request_id, answer)
$$;

-- The call of a request that is counted yet, or has cost nothing: NULL if there is none.
CREATE FUNCTION model.call_of(key text, request_id text, since timestamptz) RETURNS model.call LANGUAGE sql STABLE AS $$
	SELECT c FROM model.call c
	WHERE (c.key, c.request_id) = (call_of.key, call_of.request_id) AND c.at > since AND (c.requests > 0 OR c.credits > 0)
	ORDER BY c.seq DESC LIMIT 1
$$;

-- What is given back of an amount: as much as was counted of the key, or if there
-- is none of the whole subject, in the time that the longest limit of all spans.
-- (Months are of any length here.)
CREATE FUNCTION model.given_back(policy model.policy, key text, unit text, amount bigint, at_most boolean)
	RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
	longest interval := greatest(max(l.period), '10 minutes') FROM tierlimit.tier_limit l;
	margin interval := CASE WHEN longest >= '28 days' THEN '3 days' ELSE '1 second' END;
	-- not what was counted in a calendar period that is over; of a key that is not
	-- registered it is not known which one
	running timestamptz := lower(model.calendar(l.period, policy.anchor, policy.timezone, policy.at))
		FROM tierlimit.tier_limit l WHERE l.tier = policy.tier AND l.kind = 'calendar' ORDER BY l.period DESC LIMIT 1;
BEGIN
	IF policy.tier IS NULL AND NOT at_most THEN
		RETURN 0;
	END IF;
	RETURN least(amount, (
		SELECT coalesce(sum(CASE unit WHEN 'credits' THEN c.credits ELSE c.requests END), 0)
		FROM model.call c
		WHERE c.subject = policy.subject AND (given_back.key IS NULL OR c.key = given_back.key)
			AND c.at > policy.at - longest + CASE WHEN at_most THEN - margin ELSE margin END
			AND c.at >= coalesce(running, '-infinity')));
END
$$;

CREATE TYPE model.units AS (
	requests bigint,
	credits bigint
);

-- What the log says that a key was given back so far.
CREATE FUNCTION model.logged_back(key text) RETURNS model.units LANGUAGE sql VOLATILE AS $$
	SELECT coalesce(sum(-l.requests), 0)::bigint, coalesce(sum(-l.credits), 0)::bigint
	FROM tierlimit.request_log l
	WHERE l.key = logged_back.key AND l.error_code = 0 AND (l.requests < 0 OR l.credits < 0)
$$;

-- Take units back of a key, or of all, newest first.
CREATE PROCEDURE model.refund(subject text, key text, cost bigint, requests bigint) LANGUAGE plpgsql AS $$
DECLARE
	call model.call;
BEGIN
	FOR call IN SELECT * FROM model.call c
		WHERE c.subject = refund.subject AND (refund.key IS NULL OR c.key = refund.key)
			AND (c.credits > 0 OR c.requests > 0) ORDER BY c.seq DESC
	LOOP
		EXIT WHEN cost = 0 AND requests = 0;
		UPDATE model.call c
			SET credits = c.credits - least(cost, c.credits),
				requests = c.requests - least(refund.requests, c.requests)
			WHERE c.seq = call.seq;
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
		UPDATE model.call c SET requests = 0, credits = 0 WHERE c.subject = 'key ' || change_key.key;
		at := greatest(current_setting('tierlimit.now')::timestamptz,
			(SELECT c.at FROM model.clock c WHERE c.subject = 'key ' || change_key.key AND NOT c.forgotten));
		CALL model.set_clock('key ' || key, at + interval '1 microsecond');
	ELSE
		INSERT INTO tierlimit.api_key (name, tier, account, billing_anchor, billing_timezone)
			SELECT name, change_key.tier, account, anchor, timezone FROM model.caller WHERE name = key;
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

-- Do random operations at random times, and compare.  The clock goes on by up to
-- pace at most times.  Not exact: windows may be fuller than they have slots, and
-- limits stay as they are.  Fillers: in between so many other keys are called,
-- under the tier 'filler', to have memory full; the clock does not go back then,
-- since it forgets denied calls along with their keys.
CREATE PROCEDURE model.play(seed integer, operations integer, pace interval, exact boolean,
		fillers integer DEFAULT 0)
	LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
	callers text[] := ARRAY(SELECT c.name FROM model.caller c ORDER BY c.name);
	tiers text[] := ARRAY(SELECT t.name FROM tierlimit.tier t WHERE t.name <> 'filler' ORDER BY t.name);
	now timestamptz := greatest('2024-10-20 12:00:00+00', (SELECT max(until) FROM model.played),
		(SELECT max(at) FROM model.clock));
	back interval;
	filled integer := 0;
	op integer;
	die float8;
	key text;
	tier text;
	cost bigint;
	requests bigint;
	is_reset boolean;
	back_of text;
	request_id text;
	known model.call;
	before model.units;
	given model.units;
	at_least model.units;
	at_most model.units;
	edge timestamptz;
	policy model.policy;
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

	FOR op IN 1 .. operations LOOP
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
		-- What counts or gives back comes later than what its subject did before, so
		-- that it is known which call is the newest.
		IF die >= 0.10 AND (die < 0.78 OR die >= 0.84) THEN
			now := greatest(now, (model.policy_of(key, tier, now)).at + interval '1 microsecond');
			PERFORM set_config('tierlimit.now', now::text, false);
		END IF;
		policy := model.policy_of(key, tier, now);
		is_right := true;
		got := NULL;

		IF die < 0.78 THEN
			-- sometimes with an id, which may be one of before
			request_id := NULL;
			known := NULL;
			IF die >= 0.20 AND random() < 0.3 THEN
				request_id := 'id ' || CASE WHEN random() < 0.5 THEN op ELSE op - floor(random() * 20)::integer END;
				known := model.call_of(key, request_id, now - interval '10 minutes');
				cost := coalesce((known.answer).cost, cost);
			END IF;
			expected := model.decide(key, tier, cost, now, false);
			expected_late := CASE WHEN NOT exact THEN model.decide(key, tier, cost, now, true) END;
			IF die < 0.10 THEN
				done := 'peek';
				SELECT * INTO answer FROM tierlimit.peek(key, tier, cost);
			ELSIF die < 0.20 THEN
				done := 'check, rolled back';
				BEGIN
					SELECT * INTO answer FROM tierlimit.check(key, tier, cost);
					RAISE no_data_found;
				EXCEPTION WHEN no_data_found THEN
				END;
			ELSE
				done := 'check';
				SELECT * INTO answer FROM tierlimit.check(key, tier, cost, NULL, request_id);
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
				CALL model.set_clock(policy.subject, policy.at);
				IF answer.allowed THEN
					CALL model.admit(policy, key, cost, request_id, answer);
					admitted := admitted + 1;
				ELSE
					denied := denied + 1;
					denied_late := denied_late + expected.allowed::integer;
				END IF;
			END IF;
			done := format('%s(%L, %L, %s, %L)', done, key, tier, cost, request_id);

		ELSIF die < 0.84 THEN
			done := format('usage(%L, %L)', key, tier);
			got := (SELECT string_agg(u::text, ' ') FROM tierlimit.usage(key, tier) u);
			wanted := (SELECT string_agg(u::text, ' ') FROM model.usage(key, tier, now, false) u);
			IF exact THEN
				is_right := got IS NOT DISTINCT FROM wanted;
			ELSE
				wanted := concat_ws(' to ', wanted,
					(SELECT string_agg(u::text, ' ') FROM model.usage(key, tier, now, true) u));
				is_right := (
					SELECT coalesce(bool_and(coalesce(u.used BETWEEN l.used AND h.used, false)), true)
					FROM tierlimit.usage(key, tier) u
						FULL JOIN model.usage(key, tier, now, false) l USING (limit_name)
						FULL JOIN model.usage(key, tier, now, true) h USING (limit_name));
			END IF;

		ELSIF die < 0.865 THEN
			policy := model.policy_of(key, NULL, now);
			SELECT c.request_id INTO request_id FROM model.call c
				WHERE c.key = key AND c.request_id IS NOT NULL ORDER BY c.seq DESC OFFSET floor(random() * 3) LIMIT 1;
			CONTINUE WHEN request_id IS NULL;
			known := model.call_of(key, request_id, now - interval '10 minutes');
			-- (that of another subject, or of a period that is over, is for other tests)
			CONTINUE WHEN known.seq IS NOT NULL AND (known.subject <> policy.subject
				OR known.credits > model.given_back(policy, key, 'credits', 9223372036854775807, false)
				OR known.requests > model.given_back(policy, key, 'requests', 9223372036854775807, false));
			CONTINUE WHEN known.seq IS NULL;
			done := format('refund(%L, request_id => %L)', key, request_id);
			got := tierlimit.refund(key, request_id => request_id);
			PERFORM tierlimit.log_flush();
			wanted := known.credits;
			is_right := got = wanted;
			UPDATE model.call c SET requests = 0, credits = 0 WHERE c.seq = known.seq;
			CALL model.set_clock(policy.subject, policy.at + interval '1 microsecond');

		ELSIF die < 0.915 THEN
			policy := model.policy_of(key, NULL, now);
			before := model.logged_back(key);
			-- no reset before the subject's time has come, which it would forget
			is_reset := die >= 0.91 AND policy.at = now;
			IF NOT is_reset THEN
				requests := model.pick(ARRAY[0, 1, 1, 1, 2, 5, 50]);
				done := format('refund(%L, %s, %s)', key, cost, requests);
				got := tierlimit.refund(key, cost, requests::integer);
			ELSE
				done := format('reset(%L)', key);
				requests := 9223372036854775807;
				cost := 9223372036854775807;
				PERFORM tierlimit.reset(key);
			END IF;
			PERFORM tierlimit.log_flush();
			SELECT g.requests - before.requests AS requests, g.credits - before.credits AS credits
				INTO given FROM model.logged_back(key) AS g;
			back_of := CASE WHEN NOT is_reset THEN key END;
			at_least := (model.given_back(policy, back_of, 'requests', requests, false), model.given_back(policy, back_of, 'credits', cost, false));
			at_most := (model.given_back(policy, back_of, 'requests', requests, true), model.given_back(policy, back_of, 'credits', cost, true));
			wanted := concat_ws(' to ', at_least, at_most);
			is_right := coalesce(got::bigint = given.credits, true)
				AND given.requests BETWEEN at_least.requests AND at_most.requests
				AND given.credits BETWEEN at_least.credits AND at_most.credits;
			got := concat_ws(', ', got, given);
			IF is_reset THEN
				UPDATE model.call c SET requests = 0, credits = 0 WHERE c.subject = policy.subject;
			ELSE
				CALL model.refund(policy.subject, back_of, given.credits, given.requests);
			END IF;
			-- what comes after something was given back comes later
			IF given.requests <> 0 OR given.credits <> 0 OR is_reset THEN
				policy.at := policy.at + interval '1 microsecond';
				is_reset := false;
			END IF;
			CALL model.set_clock(policy.subject, policy.at, is_reset);

		ELSIF die < 0.97 THEN
			done := format('change of key %L', key);
			CALL model.change_key(key, model.pick(tiers));
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
	INSERT INTO model.played VALUES (now);
	RAISE NOTICE '% admitted, % denied, % of them late', admitted, denied, denied_late;
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
			FROM model.call c,
				LATERAL (SELECT CASE l.unit WHEN 'credits' THEN c.credits ELSE c.requests END) AS u (units)) AS calls
		WHERE calls.tier = l.tier AND calls.units > 0 AND calls.used > l.max);
END
$$;
