-- The extension, and three tiers: ordinary rows in ordinary tables.

CREATE EXTENSION tierlimit;

INSERT INTO tierlimit.tier VALUES
	('free', 'Free'), ('pro', 'Pro'), ('enterprise', 'Enterprise');

INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
	('free',       'minute', '1 minute',  30), ('free',       'day', '1 day',   1000),
	('pro',        'minute', '1 minute', 120), ('pro',        'day', '1 day',  50000),
	('enterprise', 'minute', '1 minute', 600), ('enterprise', 'day', '1 day', 500000);
