// The HTML page of the reports in a browser. PAGES names a folder with pages that
// check-page has made: month.html of an ordinary API, hostile.html of one whose
// keys and tiers are named to break it, hours.html with as many columns as there may
// be, empty.html of a time without calls. PICTURE, if set, is where to put a picture
// of the first.

import assert from 'node:assert/strict';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const pages = ['month', 'hostile', 'hours', 'empty'];
const wide = { width: 1200, height: 900 };
const phone = { width: 375, height: 667 };
let browser;

before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // What is opened is ours, and containers have no namespaces for a sandbox.
    chromiumSandbox: false,
  });
});

after(() => browser.close());

const path = (name) => join(process.env.PAGES, `${name}.html`);

// Open a page, and have complaints of the browser and requests of the page noted.
async function open(t, name, options = {}) {
  const context = await browser.newContext({ viewport: wide, colorScheme: 'light', ...options });
  const page = await context.newPage();
  const noise = [];
  t.after(() => context.close());
  page.on('console', (message) => noise.push(message.text()));
  page.on('pageerror', (error) => noise.push(String(error)));
  page.on('dialog', (dialog) => { noise.push(dialog.message()); dialog.dismiss(); });
  page.on('request', (request) => noise.push(request.url()));
  await page.goto(pathToFileURL(path(name)).href);
  return { page, noise };
}

// The rectangles of all texts that can be seen: [text, left, top, right, bottom].
const textBoxes = () => {
  const boxes = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const node = texts.currentNode;
    if (!node.data.trim() || !node.parentElement.checkVisibility() || node.parentElement.closest('title, desc, .skip'))
      continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects())
      if (box.width > 0)
        boxes.push([node.data, box.left, box.top, box.right, box.bottom]);
  }
  return boxes;
};

// Those of the rectangles that lie over another. A line's box is a bit higher than
// what is written in it.
function overlaps(boxes) {
  const found = [];
  boxes.sort((a, b) => a[2] - b[2]);
  boxes.forEach((a, i) => {
    for (let j = i + 1; j < boxes.length && boxes[j][2] < a[4] - 4; j++)
      if (boxes[j][1] < a[3] - 1 && boxes[j][3] > a[1] + 1)
        found.push([a[0], boxes[j][0]]);
  });
  return found;
}

// What has less contrast to the background than WCAG asks for: texts, and the columns.
const lowContrasts = () => {
  const rgb = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (color) => rgb(color).slice(0, 3)
    .map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (rgb(color)[3] !== 0)
        return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const low = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest('title, desc'))
      continue;
    const style = getComputedStyle(element);
    const ratio = contrast(element.closest('svg') ? style.fill : style.color, background(element));
    if (ratio < 4.5)
      low.push([texts.currentNode.data, ratio]);
  }
  for (const shape of document.querySelectorAll('.s1, .s3, .s5, .c2, .c4, .c6')) {
    const ratio = contrast(getComputedStyle(shape).fill, background(document.body));
    if (ratio < 3)
      low.push([shape.getAttribute('class'), ratio]);
  }
  return low;
};

const openAll = (page) => page.evaluate(() => document.querySelectorAll('details').forEach((d) => { d.open = true; }));

for (const name of pages) {
  test(`${name}: nothing runs, is fetched or complained about`, async (t) => {
    const { page, noise } = await open(t, name);
    assert.deepEqual(noise, [page.url()]);
    assert.equal(await page.locator('script, img, iframe, object, embed, link, form, input').count(), 0);
    assert.deepEqual(await page.evaluate(() => [...document.querySelectorAll('*')]
      .flatMap((element) => [...element.attributes]).map((a) => a.name).filter((a) => /^(on|src)|href$/.test(a) && a !== 'href')), []);
    assert.equal(await page.locator('a:not([href^="#"])').count(), 0);
    assert.equal(await page.evaluate(() => document.compatMode), 'CSS1Compat');
  });

  test(`${name}: is small, and there at once`, async (t) => {
    const { page } = await open(t, name);
    assert.ok((await stat(path(name))).size <= 500_000);
    const loaded = await page.evaluate(() => performance.getEntriesByType('navigation')[0].duration);
    t.diagnostic(`opened in ${Math.round(loaded)} ms`);
    assert.ok(loaded < 1000);
  });

  for (const viewport of [wide, phone])
    test(`${name}: at a width of ${viewport.width}, nothing lies over another or sticks out`, async (t) => {
      const { page } = await open(t, name, { viewport });
      await openAll(page);
      assert.deepEqual(overlaps(await page.evaluate(textBoxes)), []);
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), viewport.width);
      assert.deepEqual(await page.evaluate(() => [...document.querySelectorAll('.chart text')]
        .filter((text) => text.checkVisibility()).map((text) => text.getBoundingClientRect())
        .filter((box) => box.left < 0 || box.right > innerWidth)), []);
    });

  for (const colorScheme of ['light', 'dark'])
    test(`${name}: has contrast when it is ${colorScheme}`, async (t) => {
      const { page } = await open(t, name, { colorScheme });
      await openAll(page);
      assert.deepEqual(await page.evaluate(lowContrasts), []);
    });
}

for (const name of ['month', 'hostile', 'hours'])
  test(`${name}: the charts are drawn, and show what is in their tables`, async (t) => {
    const { page } = await open(t, name);
    for (const title of ['Admitted calls by tier', 'Denied calls by tier']) {
      const chart = page.getByRole('img', { name: title });
      assert.equal(await chart.count(), 1);
      const { box, columns, cells, legend, labels } = await chart.evaluate((svg) => {
        const height = (path) => [...path.getAttribute('d').matchAll(/v-([\d.]+)h/g)].reduce((sum, m) => sum + Number(m[1]), 0);
        const figure = svg.closest('figure');
        const number = (cell) => Number(cell.textContent.replaceAll(',', ''));
        return {
          box: svg.getBoundingClientRect(),
          columns: [...svg.querySelectorAll('path')].map((path) => [height(path), path.getBoundingClientRect().height]),
          cells: [...figure.querySelectorAll('tbody tr')].map((row) => [...row.querySelectorAll('td')].map(number)),
          legend: [...figure.querySelectorAll('.legend li')].map((item) => number({ textContent: item.textContent.replace(/.*: /s, '') })),
          labels: [...svg.querySelectorAll('text')].map((text) => text.textContent),
        };
      });
      assert.ok(box.width > 300 && box.height === 240);
      const sums = cells[0].slice(0, -1).map((_, s) => cells.reduce((sum, row) => sum + row[s], 0));
      assert.deepEqual(sums.filter((sum) => sum > 0), legend);
      cells.forEach((row) => assert.equal(row.slice(0, -1).reduce((sum, n) => sum + n, 0), row.at(-1)));
      const drawn = sums.filter((sum) => sum > 0);
      assert.equal(columns.length, drawn.length);
      // a unit is as high in each series, but for what is rounded
      const unit = columns.reduce((sum, [height]) => sum + height, 0) / drawn.reduce((sum, n) => sum + n, 0);
      columns.forEach(([height, visible], s) => {
        assert.ok(Math.abs(height - drawn[s] * unit) <= 0.1 * cells.length, `${height} for ${drawn[s]}`);
        assert.ok(visible > 0);
      });
      assert.equal(labels[0], 'calls');
      assert.ok(labels.includes('0'));
    }
  });

test('month: a keyboard reaches all there is to open or to move', async (t) => {
  const { page } = await open(t, 'month', { viewport: phone });
  const reached = [];
  for (let i = 0; i < 40; i++) {
    await page.keyboard.press('Tab');
    const focus = await page.evaluate(() => {
      const element = document.activeElement;
      const style = getComputedStyle(element);
      return element !== document.body && [element.tagName, element.getAttribute('aria-label') ?? element.textContent,
        style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
    });
    if (!focus)
      break;
    assert.ok(focus[2], `${focus[1]} shows that it has the focus`);
    reached.push(focus.slice(0, 2).join(' '));
    if (focus[0] === 'SUMMARY') {
      await page.keyboard.press('Enter');
      assert.ok(await page.evaluate(() => document.activeElement.parentElement.open));
    }
  }
  assert.equal(reached[0], 'A To the figures');
  for (const what of ['A Bills', 'SUMMARY The numbers of this chart', 'DIV Admitted calls by tier', 'DIV Calls of keys', 'DIV Used of limits', 'DIV The greatest amounts'])
    assert.ok(reached.includes(what), `${what} is among ${reached}`);
});

test('month: a screen reader finds its way', async (t) => {
  const { page } = await open(t, 'month');
  await openAll(page);
  assert.equal(await page.locator('html').getAttribute('lang'), 'en');
  assert.match(await page.title(), /^API usage, 2026-06-01/);
  assert.deepEqual(await page.evaluate(() => [...document.querySelectorAll('h1, h2, h3')].map((h) => h.tagName)),
    ['H1', ...Array(6).fill('H2')]);
  for (const link of await page.locator('a[href^="#"]').all())
    assert.equal(await page.locator(`[id="${(await link.getAttribute('href')).slice(1)}"]`).count(), 1);
  assert.deepEqual(await page.evaluate(() => [...document.querySelectorAll('table')]
    .filter((table) => !table.caption?.textContent || table.querySelector('thead th:not([scope=col]), tbody tr > :first-child:not([scope=row])')
      || [...table.rows].some((row) => row.cells.length !== table.tHead.rows[0].cells.length))
    .map((table) => table.outerHTML)), []);
  assert.deepEqual(await page.evaluate(() => [...document.querySelectorAll('svg:not(svg svg)')]
    .filter((svg) => svg.getAttribute('aria-hidden') !== 'true' && !(svg.querySelector(':scope > title')?.textContent && svg.querySelector(':scope > desc')?.textContent))
    .map((svg) => svg.outerHTML)), []);
  assert.equal(await page.evaluate(() => new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size),
    await page.locator('[id]').count());
});

test('month: is printed whole, and light', async (t) => {
  const { page } = await open(t, 'month', { colorScheme: 'dark', viewport: { width: 718, height: 1000 } });
  await page.emulateMedia({ media: 'print' });
  const cells = await page.evaluate(() => [...document.querySelectorAll('details td')].filter((td) => td.getBoundingClientRect().height === 0).length);
  assert.equal(cells, 0);
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), 'rgb(255, 255, 255)');
  assert.ok((await page.pdf({ format: 'A4' })).length > 10_000);
});

test('hostile: names are shown as they are', async (t) => {
  const { page } = await open(t, 'hostile');
  const names = await page.evaluate(() => [...document.querySelectorAll('bdi')].map((bdi) => bdi.textContent));
  for (const name of ['<script>alert(1)</script>', '"onload="alert(1)', "'><img src=x onerror=alert(1)>", '</title></style></svg><h1>', ']]>', '<!--',
    '&amp;&#60;', 'two\u240alines\u2409and\u2401\u241b[31m', '\ufffdgnp.exe\ufffd', '\u6f22'.repeat(85), 'W'.repeat(255), '<b>"x"</b> & \'y\''])
    assert.ok(names.includes(name), name);
  assert.equal(await page.locator('h1').count(), 1);
  assert.match(await readFile(path('hostile'), 'latin1'), /^[\t\n -~]*$/);
});

test('empty: says so in each section', async (t) => {
  const { page } = await open(t, 'empty');
  assert.equal(await page.locator('.chart').count(), 0);
  assert.deepEqual(await page.locator('section:not(#near):not(#bills) .none').allTextContents(),
    ['None in this time.', 'None in this time.', 'Nobody called in this time.', 'No call was denied in this time.']);
});

if (process.env.PICTURE)
  test('month: a picture', async (t) => {
    const { page } = await open(t, 'month', { viewport: { width: 1200, height: 1300 } });
    await page.screenshot({ path: process.env.PICTURE });
  });
