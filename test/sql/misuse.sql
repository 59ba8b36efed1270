-- Misuse is an ERROR that says what to do, and counts nothing.
SET client_min_messages = warning;
SET tierlimit.now = '2026-07-01 00:00:00+00';

CREATE FUNCTION state(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	message text; detail text; hint text;
BEGIN
	EXECUTE command;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, message, nullif(detail, ''), nullif(hint, ''));
END
$$;
SELECT state(command) FROM unnest(ARRAY[
	$$ SELECT tierlimit.check('k', 'gold') $$,
	$$ SELECT tierlimit.check('k', '') $$,
	$$ SELECT tierlimit.check('k', repeat('t', 100)) $$,
	$$ SELECT tierlimit.check('k', 'free', -1) $$,
	$$ SELECT tierlimit.check(repeat('k', 256), 'free') $$,
	$$ SELECT tierlimit.check(repeat('ü', 128), 'free') $$,
	$$ SELECT tierlimit.peek('k', 'gold') $$,
	$$ SELECT tierlimit.peek('k', 'free', -1) $$,
	$$ SELECT tierlimit.peek(repeat('k', 256), 'free') $$,
	$$ SELECT tierlimit.check_many(ARRAY['k', repeat('k', 256)], 'free') $$,
	$$ SELECT tierlimit.check_many(ARRAY['k'], 'gold') $$,
	$$ SELECT tierlimit.check_many(ARRAY['k'], 'free', -1) $$,
	$$ SELECT tierlimit.usage('k', 'gold') $$,
	$$ SELECT tierlimit.usage(NULL, 'free') $$,
	$$ SELECT tierlimit.refund('k', -1) $$,
	$$ SELECT tierlimit.refund('k', 1, -1) $$,
	$$ SELECT tierlimit.refund('') $$,
	$$ SELECT tierlimit.reset(NULL) $$,
	$$ SELECT tierlimit.reset(repeat('k', 256)) $$,
	$$ INSERT INTO tierlimit.tier_limit VALUES ('free', 'again', '1 minute', 'sliding', 5) $$,
	$$ DELETE FROM tierlimit.tier WHERE name = 'pro' $$,
	$$ DELETE FROM tierlimit.error_code WHERE code = 2001 $$
	]) command;
SELECT limit_name, used FROM tierlimit.usage('k', 'free');
-- a key that is not registered has no limits of its own
SELECT * FROM tierlimit.usage('k');
-- NULL for a number is its default
SELECT cost, remaining FROM tierlimit.check('k', 'free', NULL);
