-- What has to be the same on the other server.

SELECT tierlimit.log_flush();
SELECT key, limit_name, unit, kind, period, "limit", used, remaining, resets_at AT TIME ZONE 'UTC'
FROM unnest('{acme,member,other,nobody,full,"long ago",secret}'::text[]) key, tierlimit.usage(key, 'plan');
SELECT * FROM tierlimit.tier_limit ORDER BY tier, name;
SELECT * FROM tierlimit.api_key ORDER BY name;
SELECT * FROM tierlimit.error_code ORDER BY code;
SELECT * FROM tierlimit.endpoint ORDER BY endpoint;
SELECT * FROM tierlimit.request_log r WHERE error_code = 0 ORDER BY r;
SELECT remaining FROM tierlimit.check('acme', 'plan', request_id => 'once');
SELECT error_code FROM tierlimit.check('full', 'plan');
