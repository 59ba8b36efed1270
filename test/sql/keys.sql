-- Registered keys: status, expiry, accounts.
SET client_min_messages = warning;
SET timezone = 'UTC';
SET tierlimit.now = '2026-06-01 00:00:00+00';

SELECT allowed, error_code, error, http_status, key, tier FROM tierlimit.check('nobody');
SELECT allowed, error_code, error, http_status, key, tier FROM tierlimit.check('');
SELECT allowed, error_code, error, http_status, key, tier FROM tierlimit.check(NULL);
SELECT allowed, error_code, error, http_status, key, tier FROM tierlimit.check(NULL, 'free');
SELECT allowed, error_code, error, http_status, key, tier FROM tierlimit.peek('nobody');

-- "no" is not remembered longer than it is true
INSERT INTO tierlimit.api_key (name, tier) VALUES ('nobody', 'pro');
SELECT allowed, error_code, tier FROM tierlimit.check('nobody');
DELETE FROM tierlimit.api_key WHERE name = 'nobody';
SELECT allowed, error_code, tier FROM tierlimit.check('nobody');

INSERT INTO tierlimit.api_key (name, tier, status, expires_at) VALUES
  ('off', 'pro', 'disabled', '2020-01-01'),
  ('unpaid', 'pro', 'payment_required', '2020-01-01'),
  ('lapsed', 'pro', 'payment_expired', NULL),
  ('expired', 'pro', 'active', '2026-06-01 00:00:00+00'),
  ('expiring', 'free', 'active', '2026-06-01 00:00:30+00'),
  ('good', 'free', 'active', 'infinity');
SELECT d.* FROM tierlimit.api_key k, tierlimit.check(k.name) d
WHERE k.created_at = now() OR k.name IN ('off', 'unpaid', 'lapsed', 'expired', 'expiring', 'good') ORDER BY k.name;
-- also where the caller names a tier
SELECT allowed, error_code, tier FROM tierlimit.check('off', 'free');
-- it never becomes free before it expires: no retry_after
SELECT * FROM calls('expiring', NULL, 31, '2026-06-01 00:00:00+00');
SET tierlimit.now = '2026-06-01 00:00:30+00';
SELECT allowed, error_code FROM tierlimit.check('expiring');
-- nor where it expires within the second that retry_after is rounded up to
INSERT INTO tierlimit.api_key (name, tier, expires_at) VALUES ('rounded', 'free', '2026-06-01 00:01:30.7+00');
SELECT * FROM calls('rounded', NULL, 30, '2026-06-01 00:00:30.5+00');
SET tierlimit.now = '2026-06-01 00:00:31+00';
SELECT allowed, retry_after FROM tierlimit.check('rounded');
UPDATE tierlimit.api_key SET expires_at = '2026-06-01 00:01:31.1+00' WHERE name = 'rounded';
SELECT allowed, retry_after FROM tierlimit.check('rounded');
-- refusals count nothing
SELECT limit_name, used FROM tierlimit.usage('off');

-- keys of one account share its windows
INSERT INTO tierlimit.api_key (name, tier, account) VALUES
  ('red', 'free', 'paint'), ('green', 'free', 'paint'), ('blue', 'pro', 'paint'), ('paint', 'free', NULL);
SELECT * FROM calls('red', NULL, 20, '2026-06-02 00:00:00+00');
SELECT * FROM calls('green', NULL, 11, '2026-06-02 00:00:01+00');
SELECT key, tier, allowed, "limit", remaining FROM tierlimit.check('blue');
SELECT limit_name, used FROM tierlimit.usage('red');
-- a key that is called like an account is not it
SELECT key, allowed, remaining FROM tierlimit.check('paint');
-- refunds and resets are the account's, too
SELECT tierlimit.refund('green', 5, 5);
SELECT limit_name, used FROM tierlimit.usage('red');
SELECT tierlimit.reset('blue');
SELECT limit_name, used FROM tierlimit.usage('red');
-- leaving the account
UPDATE tierlimit.api_key SET account = NULL WHERE name = 'red';
SELECT allowed, remaining FROM tierlimit.check('green');
SELECT allowed, remaining FROM tierlimit.check('red');

-- a key keeps its name, under which it is counted
UPDATE tierlimit.api_key SET name = 'crimson' WHERE name = 'red';
UPDATE tierlimit.api_key SET name = name, description = 'the same' WHERE name = 'red';
SELECT allowed, remaining FROM tierlimit.check('red');

-- keys are told apart to the last byte, upper case and lower
SELECT allowed, remaining FROM tierlimit.check(repeat('x', 255), 'free');
SELECT allowed, remaining FROM tierlimit.check(repeat('x', 254) || 'y', 'free');
SELECT allowed, remaining FROM tierlimit.check(repeat('x', 254), 'free');
SELECT allowed, remaining FROM tierlimit.check(repeat('x', 255), 'free');
SELECT allowed, remaining FROM tierlimit.check('Key', 'free');
SELECT allowed, remaining FROM tierlimit.check('key', 'free');

-- what the table accepts
\set VERBOSITY terse
INSERT INTO tierlimit.api_key (name, tier) VALUES ('', 'free');
INSERT INTO tierlimit.api_key (name, tier) VALUES (repeat('x', 256), 'free');
INSERT INTO tierlimit.api_key (name, tier) VALUES ('k', 'no such tier');
INSERT INTO tierlimit.api_key (name, tier, status) VALUES ('k', 'free', 'happy');
INSERT INTO tierlimit.api_key (name, tier, key_hash) VALUES ('k', 'free', 'secret');
