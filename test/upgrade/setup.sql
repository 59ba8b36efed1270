-- What an extension in use leaves to be carried to another server: windows of all
-- kinds, an account, a price, a refund, a repeated request and calls of long ago.

CREATE EXTENSION tierlimit;
INSERT INTO tierlimit.tier VALUES ('plan');
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, max, unit, enforce) VALUES
	('plan', 'day',   '1 day',  'sliding',  100,  'requests', true),
	('plan', 'week',  '7 days', 'sliding',  1000, 'credits',  true),
	('plan', 'year',  '1 year', 'calendar', 5000, 'credits',  true),
	('plan', 'trial', '2 days', 'sliding',  5,    'requests', false);
INSERT INTO tierlimit.error_code (code, http_status, name, message) VALUES (2000, 429, 'SLOW', 'Slow down.');
INSERT INTO tierlimit.endpoint VALUES ('/v1/*', 2);
INSERT INTO tierlimit.api_key (name, tier, account) VALUES
	('acme', 'plan', NULL), ('member', 'plan', 'team'), ('other', 'plan', 'team');
SELECT set_config('tierlimit.now', (now() - interval '3 days')::text, false);
SELECT count(*) FROM tierlimit.check_many('{acme,acme,acme,member,long ago}', 'plan', 7);
RESET tierlimit.now;
SELECT count(*) FROM tierlimit.check_many(array_fill('full'::text, '{120}'), 'plan');
SELECT count(*) FROM tierlimit.check_many('{acme,acme,member,member,other,nobody}', 'plan', 3);
SELECT tierlimit.refund('acme', 3);
SELECT remaining FROM tierlimit.check('acme', 'plan', request_id => 'once');
SELECT remaining FROM tierlimit.authorize(tierlimit.create_key('secret', 'plan'), '/v1/quotes', '192.0.2.7');
SELECT tierlimit.log_flush();
