-- It goes on counting, and has counted what the log says; prints what is wrong.

SELECT 'calls are denied', count(*) FROM tierlimit.check_many('{acme,member,other,new,new}', 'plan', 2)
WHERE NOT allowed HAVING count(*) > 0;
SELECT tierlimit.refund('member', 2) <> 2 AS none \gset
SELECT 'nothing to give back' WHERE :'none';
SELECT tierlimit._add_log_partition((now() AT TIME ZONE 'UTC')::date + 10) \g /dev/null
SELECT tierlimit.log_flush() \g /dev/null
SELECT 'nothing is verified' WHERE NOT EXISTS (SELECT FROM tierlimit.verify() WHERE counted > 0);
SELECT * FROM tierlimit.verify() WHERE difference <> 0;
SELECT 'no partition', * FROM tierlimit.request_log WHERE tableoid = 'tierlimit.request_log_default'::regclass
	AND at > now() - interval '1 hour' LIMIT 1;
