// What callers of the example API get, over HTTP. libpq's variables must name a
// superuser of an empty database of a server that has tierlimit preloaded.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

const admin = new pg.Pool({ max: 1 });
const secrets = [];
const services = [];

async function sql(query, ...values) {
  return (await admin.query(query, values)).rows;
}

// Register a key; returns its secret.
async function createKey(name, tier) {
  const [{ secret }] = await sql('SELECT tierlimit.create_key($1, $2) AS secret', name, tier);
  secrets.push(secret);
  return secret;
}

// Start a service on a port of its own.
async function start(settings = {}) {
  const child = spawn(process.execPath, ['server.js'], {
    cwd: import.meta.dirname ?? new URL('.', import.meta.url).pathname,
    env: { ...process.env, PGUSER: 'service', PORT: '0', ...settings },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const service = { child, log: '', url: '' };
  services.push(service);
  child.stderr.on('data', (data) => { service.log += data; });
  child.stdout.on('data', (data) => { service.log += data; });
  for await (const line of createInterface({ input: child.stdout })) {
    service.url = /^listening on (.*)/.exec(line)?.[1];
    break;
  }
  child.stdout.resume();
  assert.ok(service.url, `the service did not start: ${service.log}`);
  return service;
}

async function get(service, path, headers = {}) {
  const response = await fetch(service.url + path, { headers });
  return {
    status: response.status,
    header: (name) => response.headers.get(name),
    limits: [...response.headers.keys()].filter((name) => /ratelimit|retry/.test(name)),
    body: await response.json(),
  };
}

function assertRefusal(response, status, code, message) {
  assert.equal(response.status, status);
  assert.deepEqual(response.body, { error: { code, message } });
}

await sql('CREATE EXTENSION tierlimit');
await sql(`INSERT INTO tierlimit.tier VALUES ('basic'), ('burst'), ('hourly')`);
await sql(`INSERT INTO tierlimit.tier_limit (tier, name, period, max) VALUES
  ('basic', 'minute', '1 minute', 100), ('basic', 'day', '1 day', 1000),
  ('burst', 'burst', '2 seconds', 2), ('hourly', 'hour', '1 hour', 10)`);
await sql('CREATE ROLE service LOGIN');
await sql(`SELECT tierlimit.grant_service('service')`);
const direct = await start();
const proxied = await start({ TRUST_PROXY: 'loopback' });

after(async () => {
  for (const { child } of services) child.kill();
  await admin.end();
});

test('a call is admitted, with its limit in the headers', async () => {
  const key = await createKey('acme', 'basic');
  const first = await get(direct, '/v1/quotes', { 'X-API-Key': key });
  assert.equal(first.status, 200);
  assert.deepEqual(first.body, { symbol: 'ACME', price: 12.5 });
  assert.equal(first.header('X-RateLimit-Limit'), '100');
  assert.equal(first.header('X-RateLimit-Remaining'), '99');
  assert.equal(first.header('RateLimit-Policy'), '"minute";q=100;w=60');
  assert.equal(first.header('RateLimit'), '"minute";r=99;t=60');
  assert.equal(first.header('Retry-After'), null);
  const second = await get(direct, '/v1/history', { 'X-API-Key': key });
  assert.equal(second.header('X-RateLimit-Remaining'), '98');
});

test('a key may be a bearer token', async () => {
  const key = await createKey('bearer', 'basic');
  for (const [i, scheme] of ['Bearer', 'bearer'].entries()) {
    const response = await get(direct, '/v1/quotes', { Authorization: `${scheme} ${key}` });
    assert.equal(response.status, 200);
    assert.equal(response.header('X-RateLimit-Remaining'), String(99 - i));
  }
});

test('no key, or an unknown one, gets 401', async () => {
  for (const headers of [{}, { 'X-API-Key': '' }, { Authorization: 'Basic YTpi' }]) {
    const response = await get(direct, '/v1/quotes', headers);
    assertRefusal(response, 401, 'API_KEY_MISSING', 'API key missing.');
    assert.deepEqual(response.limits, []);
    assert.equal(response.header('WWW-Authenticate'), 'Bearer');
  }
  for (const key of ['tl_0', 'x'.repeat(4000), '\u00e9', `'; DROP TABLE tierlimit.api_key; --`]) {
    const response = await get(direct, '/v1/quotes', { 'X-API-Key': key });
    assertRefusal(response, 401, 'API_KEY_INVALID', 'This API Key is invalid.');
    assert.deepEqual(response.limits, []);
  }
});

test('a disabled key gets 403, an unpaid one 402', async () => {
  const key = await createKey('standing', 'basic');
  const cases = [
    ['disabled', 403, 'API_KEY_DISABLED', 'This API Key has been disabled.'],
    ['payment_required', 402, 'API_KEY_PLAN_REQUIRES_PAYEMENT', 'Your API Key must be activated.'],
    ['payment_expired', 402, 'API_KEY_PLAN_PAYMENT_EXPIRED',
      `Your API Key's subscription plan has expired.`],
  ];
  for (const [status, ...refusal] of cases) {
    await sql(`UPDATE tierlimit.api_key SET status = $1 WHERE name = 'standing'`, status);
    assertRefusal(await get(direct, '/v1/quotes', { 'X-API-Key': key }), ...refusal);
  }
  await sql(`UPDATE tierlimit.api_key SET status = 'active' WHERE name = 'standing'`);
  assert.equal((await get(direct, '/v1/quotes', { 'X-API-Key': key })).status, 200);
});

test('a client that waits for Retry-After seconds is admitted again', async () => {
  const key = await createKey('patient', 'burst');
  const call = () => get(direct, '/v1/quotes', { 'X-API-Key': key });
  const burst = await Promise.all([call(), call()]);
  assert.deepEqual(burst.map(({ status }) => status), [200, 200]);
  const denied = await call();
  assertRefusal(denied, 429, 'RATE_LIMITED', 'Too many requests. Please try again later.');
  assert.equal(denied.header('X-RateLimit-Limit'), '2');
  assert.equal(denied.header('X-RateLimit-Remaining'), '0');
  assert.equal(denied.header('RateLimit-Policy'), '"burst";q=2;w=2');
  const wait = Number(denied.header('Retry-After'));
  assert.ok(wait === 1 || wait === 2, `Retry-After: ${wait}`);
  await sleep(wait * 1000);
  assert.equal((await call()).status, 200);
});

test('of concurrent calls to two services, exactly max are admitted', async () => {
  const key = await createKey('crowd', 'hourly');
  const responses = await Promise.all(Array.from({ length: 60 }, (_, i) =>
    get(i % 2 ? direct : proxied, '/v1/quotes', { 'X-API-Key': key })));
  const count = (status) => responses.filter((response) => response.status === status).length;
  assert.deepEqual([count(200), count(429)], [10, 50]);
  const left = responses.filter((response) => response.status === 200)
    .map((response) => Number(response.header('X-RateLimit-Remaining')));
  assert.deepEqual(left.sort((a, b) => a - b), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test('a call that the proxy repeats is charged once', async () => {
  const key = await createKey('repeated', 'hourly');
  const call = async (service, id) => {
    const headers = id === undefined ? {} : { 'X-Request-Id': id };
    const response = await get(service, '/v1/quotes', { 'X-API-Key': key, ...headers });
    assert.equal(response.status, 200);
    return Number(response.header('X-RateLimit-Remaining'));
  };
  assert.equal(await call(proxied, 'a'), 9);
  assert.equal(await call(proxied, 'a'), 9);
  assert.equal(await call(proxied, 'b'), 8);
  assert.equal(await call(proxied, ''), 7);
  // a caller can't say so
  assert.equal(await call(direct, 'c'), 6);
  assert.equal(await call(direct, 'c'), 5);
});

test('a change of tier is in force with the next call', async () => {
  const key = await createKey('grown', 'hourly');
  await get(direct, '/v1/quotes', { 'X-API-Key': key });
  await sql(`UPDATE tierlimit.api_key SET tier = 'basic' WHERE name = 'grown'`);
  const response = await get(direct, '/v1/quotes', { 'X-API-Key': key });
  assert.equal(response.header('X-RateLimit-Remaining'), '98');
});

test('the log says who called what, from where', async () => {
  const key = await createKey('logged', 'basic');
  const headers = { 'X-API-Key': key, 'X-Request-Id': 'id', 'X-Forwarded-For': '192.0.2.1, 192.0.2.7' };
  await get(proxied, '/v1/quotes?symbol=ACME', headers);
  await get(direct, '/v1/history', headers);
  await get(proxied, '/v1/quotes', { ...headers, 'X-Request-Id': '', 'X-Forwarded-For': '::ffff:192.0.2.8' });
  await get(proxied, '/v1/quotes', { ...headers, 'X-Request-Id': '', 'X-Forwarded-For': 'junk' });
  await sql('SELECT tierlimit.log_flush()');
  const rows = await sql(`SELECT endpoint, host(ip) AS ip, request_id FROM tierlimit.request_log
    WHERE key = 'logged' ORDER BY at`);
  assert.deepEqual(rows, [
    { endpoint: '/v1/quotes', ip: '192.0.2.7', request_id: 'id' },
    { endpoint: '/v1/history', ip: '127.0.0.1', request_id: null },
    { endpoint: '/v1/quotes', ip: '192.0.2.8', request_id: null },
    { endpoint: '/v1/quotes', ip: null, request_id: null },
  ]);
});

test('tiers may include some endpoints only, and endpoints have their price', async () => {
  await sql(`INSERT INTO tierlimit.tier VALUES ('quotes')`);
  await sql(`INSERT INTO tierlimit.tier_limit (tier, name, period, max, unit)
    VALUES ('quotes', 'credits', '1 hour', 10, 'credits')`);
  await sql(`INSERT INTO tierlimit.tier_endpoint VALUES ('quotes', '/v1/quotes')`);
  await sql(`INSERT INTO tierlimit.endpoint VALUES ('/v1/*', 4)`);
  const key = await createKey('chooser', 'quotes');
  const admitted = await get(direct, '/v1/quotes', { 'X-API-Key': key });
  assert.equal(admitted.header('X-RateLimit-Remaining'), '6');
  for (const path of ['/v1/history', '/v1/QUOTES', '/V1/quotes', '/v1/quotes/', '/v1/%71uotes']) {
    const response = await fetch(direct.url + path, { headers: { 'X-API-Key': key } });
    assert.ok([403, 404].includes(response.status), `${path}: ${response.status}`);
  }
  assertRefusal(await get(direct, '/v1/history', { 'X-API-Key': key }), 403,
    'API_KEY_PLAN_NOT_AUTHORIZED', `Your API Key subscription plan doesn't support this endpoint.`);
  await sql('DELETE FROM tierlimit.endpoint');
});

test('callers without a key are counted by their addresses', async () => {
  await sql(`INSERT INTO tierlimit.tier VALUES ('anonymous')`);
  await sql(`INSERT INTO tierlimit.tier_limit (tier, name, period, max)
    VALUES ('anonymous', 'hour', '1 hour', 1)`);
  const from = async (address) =>
    (await get(proxied, '/v1/quotes', { 'X-Forwarded-For': address })).status;
  assert.equal(await from('192.0.2.1'), 200);
  assert.equal(await from('192.0.2.1'), 429);
  assert.equal(await from('192.0.2.2'), 200);
  // what a caller puts in front does not count
  assert.equal(await from('192.0.2.3, 192.0.2.2'), 429);
  await sql(`DELETE FROM tierlimit.tier WHERE name = 'anonymous'`);
});

test('without the database, calls get 503 or are let through', async () => {
  const nowhere = { PGHOST: '/nonexistent' };
  const closed = await start(nowhere);
  const open = await start({ ...nowhere, FAIL_OPEN: '1' });
  const headers = { 'X-API-Key': secrets[0] };
  assertRefusal(await get(closed, '/v1/quotes', headers), 503,
    'SERVICE_UNAVAILABLE', 'Please try again later.');
  assert.equal((await get(open, '/v1/quotes', headers)).status, 200);
  for (const { log } of [closed, open]) assert.match(log, /^tierlimit: ENOENT: /m);
});

test('no log has a secret', async () => {
  const logs = services.map((service) => service.log);
  logs.push(await readFile(process.env.SERVER_LOG, 'utf8'));
  for (const log of logs) {
    assert.notEqual(log, '');
    for (const secret of secrets) assert.ok(!log.includes(secret.slice(3, 20)));
  }
  assert.match(direct.log, /^GET \/v1\/quotes 200 acme$/m);
});

test('a service ends when it is told to', async () => {
  direct.child.kill('SIGTERM');
  assert.deepEqual(await once(direct.child, 'exit'), [0, null]);
});
