-- What decisions leave in the request log.
SET timezone = 'UTC';
INSERT INTO tierlimit.tier VALUES ('log'), ('log more');
INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit, enforce) VALUES
	('log', 'minute', '1 minute', 2, 'requests', true),
	('log', 'shadow', '1 hour', 3, 'credits', false),
	('log more', 'minute', '1 minute', 5, 'requests', true),
	('log more', 'day', '1 day', 100, 'credits', true);
INSERT INTO tierlimit.api_key (name, tier, account) VALUES ('log one', 'log', 'log acme'), ('log two', 'log', 'log acme');

-- sums are by the pattern that matches best, whoever has it
INSERT INTO tierlimit.endpoint VALUES ('/v1/*', 1);
INSERT INTO tierlimit.tier VALUES ('log other');
INSERT INTO tierlimit.tier_endpoint VALUES ('log other', '/v1/quot*');

-- one row for an admitted call, one a second for denied ones alike
SET tierlimit.now = '2026-05-01 12:00:00+00';
SELECT allowed FROM tierlimit.check('log k', 'log', 2, '/v1/quotes', 'r-1');
SELECT allowed FROM tierlimit.check('log k', 'log', 3, '/v1/quotes');
SELECT count(*) FILTER (WHERE allowed) FROM generate_series(1, 10) i, tierlimit.check('log k', 'log', i, '/v1/quotes');
SELECT allowed FROM tierlimit.check('log k', 'log', 1, '/v1/other');
SELECT error_code FROM tierlimit.check('log nobody');
SELECT error_code FROM tierlimit.check(NULL, 'log');
SELECT tierlimit.log_flush();
SELECT * FROM tierlimit.request_log WHERE key ~ '^log' ORDER BY key, error_code, endpoint, requests;

-- keys of an account
SELECT allowed, remaining FROM tierlimit.check_many(ARRAY['log one', 'log two', 'log two']);
SELECT tierlimit.log_flush();
SELECT key, account, tier, error_code, requests FROM tierlimit.request_log WHERE account = 'log acme' ORDER BY key, error_code;

-- what is given back is a row, too; giving back nothing is none
SELECT tierlimit.refund('log k', 1, 1), tierlimit.refund('log k', 0, 0), tierlimit.refund('log never');
SELECT tierlimit.reset('log one');
SELECT tierlimit.log_flush();
SELECT key, account, tier, requests, credits FROM tierlimit.request_log WHERE requests < 0 AND key ~ '^log' ORDER BY key;

-- a peek leaves nothing, nor does a call while limits are off
SELECT allowed FROM tierlimit.peek('log peek', 'log');
SELECT tierlimit.log_flush();
SELECT count(*) FROM tierlimit.request_log WHERE key = 'log peek';

-- these rows came when their hour was summed up already: they are added
SELECT hour, key, tier, endpoint, requests, credits, denied FROM tierlimit.usage_hourly WHERE key ~ '^log' ORDER BY key, tier, endpoint;
SELECT sum(requests) FILTER (WHERE error_code = 0) AS requests, sum(requests) FILTER (WHERE error_code <> 0) AS denied FROM tierlimit.request_log WHERE key ~ '^log';
SELECT sum(requests) AS requests, sum(denied) AS denied FROM tierlimit.usage_hourly WHERE key ~ '^log';

DELETE FROM tierlimit.endpoint;
DELETE FROM tierlimit.tier WHERE name = 'log other';

-- a limit that a new tier brings counts what the log holds
SELECT limit_name, used FROM tierlimit.usage('log k', 'log more');
SELECT allowed, limit_name, remaining FROM tierlimit.check('log k', 'log more', 10);
SELECT limit_name, used FROM tierlimit.usage('log k', 'log more');

-- endpoints that are too long are cut
SELECT allowed FROM tierlimit.check('log long', 'log', 1, repeat('ü', 2000));
SELECT tierlimit.log_flush();
SELECT octet_length(endpoint) FROM tierlimit.request_log WHERE key = 'log long';
SELECT tierlimit.check('k', 'log', 1, NULL, repeat('r', 256));

-- waiting for the disk
SET tierlimit.durability = sync;
SELECT allowed FROM tierlimit.check('log sync', 'log');
SELECT requests FROM tierlimit.request_log WHERE key = 'log sync';
SET tierlimit.now = '2026-05-01 12:00:00.1+00';
SELECT count(*) FROM tierlimit.check_many(array_fill('log sync'::text, ARRAY[3]), 'log more') WHERE allowed;
SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'log sync';
SELECT tierlimit.refund('log sync');
SELECT sum(requests) FROM tierlimit.request_log WHERE key = 'log sync';
RESET tierlimit.durability;

-- partitions of today and the days to come; others' rows go to the default one
SELECT count(*) AS days FROM pg_inherits WHERE inhparent = 'tierlimit.request_log'::regclass
	AND inhrelid::regclass::text ~ 'request_log_\d{8}$';
SELECT DISTINCT tableoid::regclass FROM tierlimit.request_log WHERE key ~ '^log';
SELECT tierlimit._add_log_partition('2026-05-01');
SELECT DISTINCT tableoid::regclass FROM tierlimit.request_log WHERE key ~ '^log';

-- memory and log agree
SELECT * FROM tierlimit.verify('log sync') ORDER BY limit_name;
SELECT count(*) > 0 AS any, count(*) FILTER (WHERE difference <> 0) AS differ FROM tierlimit.verify();
SELECT * FROM tierlimit.verify('log never');

-- the dropped day leaves its sums
DROP TABLE tierlimit.request_log_20260501;
SELECT count(*) FROM tierlimit.request_log WHERE key ~ '^log';
SELECT sum(requests) AS requests FROM tierlimit.usage_hourly WHERE key ~ '^log';
SELECT counted, logged, difference FROM tierlimit.verify('log two') WHERE difference <> 0;

-- the columns of the view
SELECT log_pending, log_written > 0 AS log_written, log_lag = '0' AS no_lag FROM tierlimit.stat;
