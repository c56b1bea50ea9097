'use strict';
// Cells in JavaScript: a node in a guest that runs one piece of source after the other, in names that stay. What it and
// the host say to each other is written down in cells.py; what is different here:
//
// - A process of node's cannot move its descriptors, so those of the frames stay 0 and 1. Whatever code in a cell does
//   with standard streams, by node's own means and in programs that it starts, is sent on as output instead.
// - Functions of the host are called by `await call_tool("name", …)` or `await tools.name(…)`; one plain object alone
//   is their arguments by name.
// - Math.random cannot be seeded: in copies of a machine it goes on as it was.
//
// The REPL of node evaluates cells: declarations stay, the value is that of the last expression, `await` may stand at
// the top. It runs in the guest's own node, 18 or later.

(() => {
  const childProcess = require('child_process');
  const { Console } = require('console');
  const fs = require('fs');
  const { syncBuiltinESMExports } = require('module');
  const repl = require('repl');
  const { PassThrough, Readable, Writable } = require('stream');
  const util = require('util');

  const VERSION = 1;
  const MAX_MESSAGE = 4 << 20;
  const PIECE = 60000;
  const [MOST_VALUE, MOST_REPR, MOST_WORDS, MOST_TRACE] = [2 << 20, 20000, 4000, 60000];
  const MOST_LATE = 1 << 20;
  const HEADER = 5;
  const { writeSync } = fs;
  const still = new Int32Array(new SharedArrayBuffer(4));

  let inCell = false;
  let offered = [];
  let lastCall = 0;
  const calls = new Map();
  const late = []; // what was written between cells
  let lateBytes = 0;
  const streams = new Set(); // of programs that write to our standard streams

  class ToolError extends Error {
    constructor(tool, type, message) {
      super(`${tool}: ${type}: ${message}`);
      this.name = new.target.name;
      Object.assign(this, { tool, type });
    }
  }
  class ToolTimeout extends ToolError {}

  // Frames

  function send(kind, content) {
    const head = Buffer.alloc(HEADER);
    head.writeUInt32LE(content.length, 0);
    head.write(kind, 4, 'latin1');
    let data = Buffer.concat([head, content]);
    while (data.length) {
      try {
        data = data.subarray(writeSync(1, data));
      } catch (error) {
        if (error.code !== 'EAGAIN') throw error;
        Atomics.wait(still, 0, 0, 1);
      }
    }
  }

  function sendJson(kind, value) {
    send(kind, Buffer.from(JSON.stringify(value)));
  }

  function listen(held) {
    while (held.length >= HEADER && held.length >= HEADER + held.readUInt32LE(0)) {
      const end = HEADER + held.readUInt32LE(0);
      take(String.fromCharCode(held[4]), held.subarray(HEADER, end));
      held = held.subarray(end);
    }
    const room = Buffer.allocUnsafe(65536);
    fs.read(0, room, 0, room.length, null, (error, count) => {
      if (error && error.code === 'EAGAIN') setTimeout(listen, 1, held);
      else if (error || !count) process.reallyExit(0); // the host has hung up
      else listen(Buffer.concat([held, room.subarray(0, count)]));
    });
  }

  function take(kind, content) {
    if (kind === 'S') return;
    const message = JSON.parse(content.toString());
    if (kind === 'X') run(message);
    if (kind === 'A') {
      const waiting = calls.get(message.id);
      calls.delete(message.id);
      if (waiting) waiting(message);
    }
  }

  // Output

  function output(kind, data) {
    if (!inCell) {
      if (lateBytes + data.length <= MOST_LATE) late.push([kind, data]);
      lateBytes += data.length;
      return;
    }
    for (let start = 0; start < data.length; start += PIECE) send(kind, data.subarray(start, start + PIECE));
  }

  function replaceStream(name, kind, fd) {
    const stream = new Writable({
      write(chunk, _encoding, done) {
        output(kind, chunk);
        done();
      },
    });
    stream.fd = fd;
    Object.defineProperty(process, name, { configurable: true, enumerable: true, value: stream });
    return stream;
  }

  const stdout = replaceStream('stdout', 'o', 1);
  const stderr = replaceStream('stderr', 'e', 2);
  const stdin = Readable.from([]);
  Object.defineProperty(process, 'stdin', { configurable: true, enumerable: true, value: stdin });
  const ours = new Console(stdout, stderr);
  for (const name of Object.keys(ours)) console[name] = ours[name];

  const KINDS = { 1: 'o', 2: 'e' };

  function replaceWrites() {
    const { write } = fs;
    fs.writeSync = (fd, data, ...rest) => {
      if (!KINDS[fd]) return writeSync(fd, data, ...rest);
      const bytes = typeof data === 'string' ? Buffer.from(data, rest[1]) : asBuffer(data, rest);
      output(KINDS[fd], bytes);
      return bytes.length;
    };
    fs.write = (fd, data, ...rest) => {
      if (!KINDS[fd]) return write(fd, data, ...rest);
      const then = rest.pop();
      const count = fs.writeSync(fd, data, ...rest);
      process.nextTick(then, null, count, data);
    };
  }

  function asBuffer(data, [offset, length]) {
    const place = typeof offset === 'object' && offset ? offset : { offset, length };
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    const start = place.offset ?? 0;
    return Buffer.from(bytes.subarray(start, start + (place.length ?? bytes.length)));
  }

  // Programs that a cell starts

  const isOurs = (what, fd) => what === 'inherit' || what === fd || (what && what.fd === fd);

  // [stdio with pipes where it had our streams, the places of those]
  function withPipes(stdio) {
    if (stdio === undefined || stdio === null) return [stdio, []];
    const list = typeof stdio === 'string' ? [stdio, stdio, stdio] : [...stdio];
    const places = [];
    for (let place = 0; place < list.length; place++) {
      const fd = [0, 1, 2].find((one) => (list[place] === 'inherit' ? one === place : isOurs(list[place], one)));
      if (fd === 0) list[place] = 'ignore';
      if (fd !== 1 && fd !== 2) continue;
      list[place] = 'pipe';
      places.push([place, KINDS[fd]]);
    }
    return [list, places];
  }

  function replacePrograms() {
    const { spawn } = childProcess.ChildProcess.prototype;
    childProcess.ChildProcess.prototype.spawn = function (options) {
      const [stdio, places] = withPipes(options.stdio);
      const result = spawn.call(this, { ...options, stdio });
      for (const [place, kind] of places) {
        const stream = this.stdio?.[place];
        if (!stream) continue;
        streams.add(stream);
        stream.on('data', (data) => output(kind, data)).on('close', () => streams.delete(stream));
      }
      return result;
    };
    const { spawnSync, execSync, execFileSync } = childProcess;
    childProcess.spawnSync = (file, ...rest) => {
      const [args, options] = Array.isArray(rest[0]) ? rest : [[], rest[0]];
      const [stdio, places] = withPipes(options?.stdio);
      const ended = spawnSync(file, args, { ...options, stdio });
      for (const [place, kind] of places) {
        const said = ended.output?.[place];
        if (said) output(kind, Buffer.from(said));
      }
      return ended;
    };
    const orFail = (name, ended) => {
      if (ended.error) throw ended.error;
      if (ended.status !== 0) throw Object.assign(new Error(`Command failed: ${name}`), ended);
      return ended.stdout;
    };
    childProcess.execSync = (line, options) =>
      withPipes(options?.stdio)[1].length
        ? orFail(line, childProcess.spawnSync(line, { ...options, shell: options.shell ?? true }))
        : execSync(line, options);
    childProcess.execFileSync = (file, ...rest) => {
      const [args, options] = Array.isArray(rest[0]) ? rest : [[], rest[0]];
      if (!withPipes(options?.stdio)[1].length) return execFileSync(file, ...rest);
      return orFail(file, childProcess.spawnSync(file, args, options));
    };
  }

  // Functions of the host

  function call(name, args) {
    return new Promise((resolve, reject) => {
      if (!inCell) throw new ToolError(name, 'NoRun', 'functions of the host can be called while a cell runs only');
      const [first] = args;
      const named = args.length === 1 && first !== null && typeof first === 'object' && !Array.isArray(first);
      const id = ++lastCall;
      let content;
      try {
        content = Buffer.from(JSON.stringify({ id, name, args: named ? [] : args, kwargs: named ? first : {} }));
      } catch (error) {
        throw new ToolError(name, 'TypeError', `the arguments are not JSON: ${error.message}`);
      }
      if (content.length > MAX_MESSAGE) {
        throw new ToolError(name, 'ValueError', `the arguments take more than ${MAX_MESSAGE} bytes`);
      }
      calls.set(id, ({ value, error }) => {
        if (!error) resolve(value);
        else reject(new (error.kind === 'timeout' ? ToolTimeout : ToolError)(name, error.type, error.message));
      });
      send('C', content);
    });
  }

  function giveUp() {
    const error = { kind: 'error', type: 'RunEnded', message: 'the cell has ended' };
    for (const waiting of calls.values()) waiting({ error });
    calls.clear();
  }

  const tools = new Proxy(Object.create(null), {
    get: (_, name) => (offered.includes(name) ? (...args) => call(name, args) : undefined),
    has: (_, name) => offered.includes(name),
    ownKeys: () => [...offered],
    getOwnPropertyDescriptor: (_, name) =>
      offered.includes(name) ? { configurable: true, enumerable: true, value: tools[name] } : undefined,
  });

  // Cells

  const cut = (text, most) => (text.length <= most ? text : `${text.slice(0, most)}… (${text.length} characters)`);

  function shown(value) {
    if (value === undefined) return {};
    const found = { repr: cut(guarded(() => util.inspect(value), '<a value that cannot be shown>'), MOST_REPR) };
    const text = guarded(() => JSON.stringify(value));
    if (text === undefined || text.length > MOST_VALUE) return found;
    const same = guarded(() => util.isDeepStrictEqual(JSON.parse(text), value), false);
    return same ? { ...found, value } : found;
  }

  function guarded(work, otherwise) {
    try {
      return work();
    } catch {
      return otherwise;
    }
  }

  function told(error) {
    const isError = guarded(() => util.types.isNativeError(error) || error instanceof Error, false);
    const type = String(guarded(() => (isError ? error.name : typeof error), 'Error'));
    const message = String(guarded(() => (isError ? error.message : util.inspect(error)), ''));
    const stack = String(guarded(() => (isError && error.stack) || `Uncaught ${message}`, message));
    const notOurs = (line) => !/^ +at .*(\[eval\]|node:|REPLServer|callbackTrampoline)/.test(line);
    const traceback = `${stack.split('\n').filter(notOurs).join('\n').slice(-MOST_TRACE)}\n`;
    output('e', Buffer.from(traceback));
    return { type: cut(type, 200), message: cut(message, MOST_WORDS), traceback };
  }

  const server = repl.start({
    input: new PassThrough(),
    output: stderr,
    prompt: '',
    terminal: false,
    useGlobal: true,
    breakEvalOnSigint: true,
  });
  // In its domain, errors of a cell would be printed there and not told to us.
  if (server._domain) Object.assign(server._domain, { enter() {}, exit() {} });

  // What never gives way is interrupted by a watchdog of node's own, which a listener of ours would be in the way of.
  const interrupted = () => inCell && server.emit('SIGINT');

  function evaluate(code, name) {
    return new Promise((resolve, reject) => {
      process.off('SIGINT', interrupted);
      server.eval(`${code}\n`, server.context, name, (error, value) => {
        if (error) reject(error instanceof repl.Recoverable ? error.err : error);
        else resolve(value); // what a promise comes to
      });
      process.on('SIGINT', interrupted);
    });
  }

  async function run({ code, name, tools: names }) {
    inCell = true;
    offered = names;
    for (const [kind, data] of late.splice(0)) output(kind, data);
    lateBytes = 0;
    for (const stream of streams) stream.resume();
    let done;
    try {
      done = { code: 0, ...shown(await evaluate(code, name)) };
    } catch (error) {
      done = { code: 1, error: told(error) };
    }
    giveUp();
    inCell = false;
    for (const stream of streams) stream.pause();
    sendJson('D', done);
  }

  replaceWrites();
  replacePrograms();
  syncBuiltinESMExports();
  Object.assign(globalThis, { call_tool: (name, ...args) => call(String(name), args), tools, ToolError, ToolTimeout });
  process.on('SIGINT', interrupted);
  for (const event of ['uncaughtException', 'unhandledRejection']) process.on(event, told);
  sendJson('R', { version: VERSION });
  listen(Buffer.alloc(0));
})();
