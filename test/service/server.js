// An example of an HTTP API behind tierlimit. libpq's variables (PGHOST, PGUSER,
// ...) say where the database is; beyond them:
//
//   PORT         of 127.0.0.1, default 8080; 0: any that is free
//   TRUST_PROXY  whose X-Forwarded-For and X-Request-Id to believe, as Express's
//                'trust proxy' says it: addresses, or a number of proxies; default 0
//   FAIL_OPEN    1: let calls through while the database does not answer

import express from 'express';
import pg from 'pg';
import { tierlimit } from './middleware.js';

const { PORT = '8080', TRUST_PROXY = '0', FAIL_OPEN = '' } = process.env;

const pool = new pg.Pool({ max: 8, connectionTimeoutMillis: 2000, query_timeout: 2000 });
// (a connection that breaks while idle; unheard, it would end the process)
pool.on('error', (error) => console.error(`database: ${error.message}`));

// (neither the query nor headers, where callers may have put a secret)
function accessLog(req, res, next) {
  const path = req.path;
  res.on('finish', () => {
    console.log(`${req.method} ${path} ${res.statusCode} ${req.tierlimit?.key ?? '-'}`);
  });
  next();
}

const app = express();
app.disable('x-powered-by');
app.enable('case sensitive routing');
app.enable('strict routing');
app.set('trust proxy', /^\d+$/.test(TRUST_PROXY) ? Number(TRUST_PROXY) : TRUST_PROXY);

app.use(accessLog);
app.use('/v1', tierlimit(pool, { failOpen: FAIL_OPEN === '1' }));
app.get('/v1/quotes', (req, res) => res.json({ symbol: 'ACME', price: 12.5 }));
app.get('/v1/history', (req, res) => res.json({ symbol: 'ACME', prices: [12.0, 12.25, 12.5] }));

const server = app.listen(Number(PORT), '127.0.0.1', (error) => {
  if (error) throw error;
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    server.close(() => pool.end());
    server.closeIdleConnections();
  });
}
