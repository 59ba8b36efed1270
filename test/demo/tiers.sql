-- The extension, and three tiers: ordinary rows in ordinary tables.

CREATE EXTENSION tierlimit;

INSERT INTO tierlimit.tier VALUES
	('free', 'Free', 0), ('pro', 'Pro', 29), ('enterprise', 'Enterprise', 499);

INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('free',       'minute', '1 minute',  30), ('free',       'day', '1 day',   1000),
	('pro',        'minute', '1 minute', 120), ('pro',        'day', '1 day',  50000),
	('enterprise', 'minute', '1 minute', 600), ('enterprise', 'day', '1 day', 500000);

-- What is over a hundred credits a month costs; it is not denied.
INSERT INTO tierlimit.tier_limit (tier, name, period, kind, unit, max, enforce, overage_price) VALUES
	('enterprise', 'month', '1 month', 'calendar', 'credits', 100, false, 0.05);
