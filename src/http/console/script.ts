/**
 * The console's script: times in the reader's zone, and streams as they come. Everything else works without it.
 *
 * Texts go into the page as text nodes alone. What a frame brings is shown at most once a repaint, and the page keeps the
 * last events only, so that a stream of any length does not hold it up.
 */
export const SCRIPT = `'use strict';
(() => {
  const MAX_EVENTS = 500;
  const MAX_EVENT_LENGTH = 2000;
  const MAX_TEXT = 1000000;

  const ageOf = (ms) => {
    const s = Math.max(0, Math.round(ms / 1000));
    if (s < 60) return s + ' s';
    if (s < 3600) return Math.floor(s / 60) + ' min';
    if (s < 172800) return Math.floor(s / 3600) + ' h';
    return Math.floor(s / 86400) + ' d';
  };
  const showTime = (node) => {
    const at = new Date(node.dateTime);
    const left = at - Date.now();
    node.title = node.dateTime;
    node.textContent = at.toLocaleString() + (left > 0 ? ' (in ' + ageOf(left) + ')' : ' (' + ageOf(-left) + ' ago)');
  };
  const showTimes = () => { for (const node of document.querySelectorAll('time')) showTime(node); };
  showTimes();
  setInterval(showTimes, 10000);

  const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

  /** Reads server-sent events, and again from where it was when the connection ends early. */
  async function* read(path) {
    let last = '';
    let pause = 1000;
    for (;;) {
      try {
        const headers = { accept: 'text/event-stream' };
        if (last !== '') headers['last-event-id'] = last;
        const answer = await fetch(path, { headers, credentials: 'same-origin' });
        if (answer.status === 204) return;
        if (answer.redirected || answer.status >= 400 && answer.status < 500) throw Object.assign(new Error('The stream cannot be read (' + answer.status + ')'), { final: true });
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = '';
        let event = { type: 'message', data: '' };
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          pause = 1000;
          const lines = (rest + value).split('\\n');
          rest = lines.pop();
          for (const line of lines) {
            if (line === '') {
              if (event.data !== '') yield { ...event, id: last };
              event = { type: 'message', data: '' };
            } else if (line.startsWith('id: ')) last = line.slice(4);
            else if (line.startsWith('event: ')) event.type = line.slice(7);
            else if (line.startsWith('data: ')) event.data += (event.data === '' ? '' : '\\n') + line.slice(6);
          }
        }
      } catch (error) {
        if (error.final) throw error;
      }
      await wait(pause);
      pause = Math.min(pause * 2, 15000);
    }
  }

  const ENDS = new Set(['end', 'error', 'cancelled']);

  async function follow(root) {
    const part = (name) => root.querySelector('[data-part=' + name + ']');
    const [text, events, count, state, sources, lastAt] = ['text', 'events', 'count', 'state', 'sources', 'last'].map(part);
    let whole = '';
    let marks = [];
    let fresh = [];
    let shown = '';
    let dirty = false;
    let total = 0;
    let queued = false;
    let node;
    const paint = () => {
      queued = false;
      if (text !== null && dirty) {
        node ??= text.appendChild(document.createTextNode(''));
        if (whole.startsWith(shown)) node.appendData(whole.slice(shown.length, MAX_TEXT));
        else node.data = whole.slice(0, MAX_TEXT);
        shown = whole.slice(0, MAX_TEXT);
        dirty = false;
      }
      if (events !== null && fresh.length > 0) {
        const stick = events.scrollTop + events.clientHeight >= events.scrollHeight - 30;
        const some = fresh.slice(-MAX_EVENTS);
        fresh = [];
        for (const { id, data } of some) {
          const item = document.createElement('li');
          item.className = 'mono';
          item.textContent = (id + ' ' + data).slice(0, MAX_EVENT_LENGTH);
          events.append(item);
        }
        while (events.childElementCount > MAX_EVENTS) events.firstElementChild.remove();
        if (stick) events.scrollTop = events.scrollHeight;
      }
      if (count !== null) count.textContent = total + (total === 1 ? ' event' : ' events') + (total > MAX_EVENTS ? ', the last ' + MAX_EVENTS + ' shown' : '');
    };
    const show = () => {
      if (queued) return;
      queued = true;
      requestAnimationFrame(paint);
    };
    const showSources = (list) => {
      if (sources === null) return;
      sources.replaceChildren(...list.map((source) => {
        const item = document.createElement('li');
        const link = document.createElement('a');
        link.href = '/playground/documents/' + encodeURIComponent(root.dataset.collection) + '/' + encodeURIComponent(source.documentId) + '?at=' + Number(source.ordinal) + (root.dataset.tenant === undefined ? '' : '&tenant=' + encodeURIComponent(root.dataset.tenant)) + '#chunk-' + Number(source.ordinal);
        link.textContent = '[' + source.n + '] ' + source.path + ' ' + source.heading;
        item.append(link);
        return item;
      }));
    };
    let ended = '';
    try {
      for await (const frame of read(root.dataset.stream)) {
        total++;
        fresh.push(frame);
        if (fresh.length > 2 * MAX_EVENTS) fresh = fresh.slice(-MAX_EVENTS);
        let event = {};
        try { event = JSON.parse(frame.data); } catch { /* shown as it is */ }
        const seq = Number.parseInt(frame.id, 10);
        if (frame.type === 'delta' && typeof event.text === 'string') { marks.push({ seq, length: whole.length }); whole += event.text; dirty = true; }
        else if (frame.type === 'attempt' || frame.type === 'rewind') {
          const from = frame.type === 'rewind' || event.resumed === true ? (event.from ?? seq) : 0;
          const first = marks.findIndex((mark) => mark.seq >= from);
          if (first !== -1) { whole = whole.slice(0, marks[first].length); marks = marks.slice(0, first); }
          dirty = true;
        } else if (frame.type === 'sources' && Array.isArray(event.sources)) showSources(event.sources);
        ended = ENDS.has(frame.type) ? frame.type : '';
        if (lastAt !== null) { lastAt.dateTime = new Date().toISOString(); lastAt.hidden = false; showTime(lastAt); }
        if (state !== null) state.textContent = ended === '' ? 'live' : 'ended: ' + ended;
        show();
        if (ended !== '' && root.dataset.live === 'true') {
          // The row says more than its last event.
          setTimeout(() => location.reload(), 400);
          return;
        }
      }
      if (state !== null) state.textContent = ended === '' ? 'ended' : 'ended: ' + ended;
    } catch (error) {
      if (state !== null) state.textContent = error.message;
    }
    show();
  }
  const upload = document.querySelector('form[data-upload]');
  const named = document.getElementById('u-collection');
  // The collection is in the path, so that the form has files alone.
  if (upload !== null) upload.addEventListener('submit', () => {
    upload.action = '/playground/upload?collection=' + encodeURIComponent(named.value) + '&tenant=' + upload.dataset.upload;
  });
  for (const root of document.querySelectorAll('[data-stream]')) void follow(root);
})();
`;
