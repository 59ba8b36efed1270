// An Express middleware that asks tierlimit, for each call, whether its key may
// do this now. Copy it into your service:
//
//   const pool = new pg.Pool();
//   app.use('/v1', tierlimit(pool));
//
// The pool's role needs no more than SELECT tierlimit.grant_service('role').
//
// What a call costs, and which tiers include it, goes by its path as the router
// sees it. So routers must not take another spelling of a path for the same:
// turn on 'case sensitive routing' and 'strict routing', as server.js does.

import { isIP } from 'node:net';

// One round trip. (FROM: so that the function is called once, not once a column)
const QUERY = `
  SELECT d.*, tierlimit.headers(d) AS headers, tierlimit.error_body(d) AS error_body
  FROM tierlimit.authorize($1, $2, $3, NULL, $4) d`;

const UNAVAILABLE = {
  error: { code: 'SERVICE_UNAVAILABLE', message: 'Please try again later.' },
};

// X-API-Key: <key>, or Authorization: Bearer <key>
function apiKey(req) {
  const bearer = /^Bearer +(\S+)$/i.exec(req.get('authorization') ?? '');
  return req.get('x-api-key') || bearer?.[1] || null;
}

// The caller's address; or, if Express's 'trust proxy' is set, the one that the
// proxy had the call from. (fe80::1%eth0: inet knows no zones)
function address(req) {
  const ip = (req.ip ?? '').replace(/%.*/, '');
  return isIP(ip) ? ip : null;
}

// X-Request-Id. The same id within 10 minutes is the same call, and charged once: a
// trusted proxy that repeats a call may say so; it must make the id itself. From
// a caller it would be a way to call for nothing.
function requestId(req) {
  const isTrusted = req.app.get('trust proxy fn');
  const id = req.get('x-request-id') ?? '';
  if (!isTrusted(req.socket.remoteAddress, 0) || Buffer.byteLength(id) > 255) return null;
  return id || null;
}

// Options:
//   failOpen  true: calls are let through while the database does not answer;
//             default: they get 503
//   log       where to write that it does not: console.error
//
// The decision is in req.tierlimit then, for what follows.
export function tierlimit(pool, { failOpen = false, log = console.error } = {}) {
  return async function gate(req, res, next) {
    let d = null;
    try {
      const values = [apiKey(req), req.baseUrl + req.path, address(req), requestId(req)];
      [d] = (await pool.query(QUERY, values)).rows;
    } catch (error) {
      // (neither the server nor pg quote a parameter here, the key for one)
      log(`tierlimit: ${error.code ?? error.name}: ${error.message}`);
      return failOpen ? next() : res.status(503).json(UNAVAILABLE);
    }

    req.tierlimit = d;
    res.set(d.headers);
    if (d.allowed) return next();
    if (d.http_status === 401) res.set('WWW-Authenticate', 'Bearer');
    return res.status(d.http_status).json(d.error_body);
  };
}
