-- What the service needs in a database with tiers: a role to log in as, and a
-- key, whose secret is printed.

SELECT 'CREATE ROLE service LOGIN' WHERE to_regrole('service') IS NULL \gexec
SELECT tierlimit.grant_service('service') \g /dev/null

SELECT CASE WHEN EXISTS (SELECT FROM tierlimit.api_key WHERE name = 'visitor')
	THEN tierlimit.rotate_key('visitor') ELSE tierlimit.create_key('visitor', 'free') END;
