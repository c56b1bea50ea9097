'use strict';
// The node that waits in a guest and becomes one program: JavaScript source, which it runs as `node -e` would.
//
// The agent starts it as root with one socket, on which it says "R" when it is ready. With the answer come the request
// (the records of an EXEC) and three streams. Our add-on restricts this process as the agent restricts any program,
// and closes the socket, which says that the program has started. What goes wrong before that is sent back as the
// outcome. It runs in the guest's own node, 18 or later, with --experimental-vm-modules.

const { Console } = require('console');
const { Module, builtinModules } = require('module');
const { Socket } = require('net');
const path = require('path');
const v8 = require('v8');
const vm = require('vm');

const NAME = '[eval]';
const agent = Number(process.argv[2]);
const { exit: quit } = process;
const { wait, pipe, exit, trim } = require('./node_addon.node');

// What `node -e` has beside the global names of every program: modules by their names, loaded when they are used.
function offerModules(place, names) {
  for (const name of names) {
    if (name.startsWith('_') || name.includes('/') || (name !== 'crypto' && Object.hasOwn(place, name))) continue;
    const offer = { configurable: true, enumerable: Object.hasOwn(place, name) };
    offer.set = (value) => {
      delete place[name];
      place[name] = value;
    };
    offer.get = () => {
      const value = require(name);
      Object.defineProperty(place, name, { ...offer, get: () => value });
      return value;
    };
    Object.defineProperty(place, name, offer);
  }
}

const streams = ['stdout', 'stderr'].map((name) => [name, Object.getOwnPropertyDescriptor(process, name)]);

// Node makes these of what is there when they are asked for first, and asks by itself: not before the program's are.
function hideStreams() {
  for (const [name, usual] of streams) Object.defineProperty(process, name, { ...usual, get: () => ({}) });
}

// What is written to a pipe is written when the call returns, as to a terminal or a file: else process.exit() would
// lose what the reader has not taken yet.
function showStreams() {
  for (const [name, usual] of streams) {
    const get = () => {
      const stream = usual.get.call(process);
      Object.defineProperty(process, name, usual);
      stream._handle?.setBlocking?.(true);
      return stream;
    };
    Object.defineProperty(process, name, { ...usual, get });
  }
}

// Nothing of this file is to be found by a program, nor of the flag that `importModuleDynamically` takes.
function forget() {
  for (const key of Object.keys(require.cache)) delete require.cache[key];
  for (const key of Object.keys(Module._pathCache)) delete Module._pathCache[key];
  for (const name of ['Module', 'SourceTextModule', 'SyntheticModule']) delete vm[name];
  delete process.mainModule;
  process.execArgv = [];
  process.title = 'node';
}

// The module that the program is, as far as `require` and `import()` ask for it.
function makeModule(folder) {
  const made = new Module(NAME);
  made.filename = path.join(folder, NAME);
  made.paths = Module._nodeModulePaths(folder);
  const [require, load] = made._compile('return [require, (name) => import(name)]', made.filename);
  return { made, require, load };
}

function compile(source, load) {
  const options = { filename: NAME, importModuleDynamically: (name) => load(name) };
  try {
    return new vm.Script(source, options);
  } catch (error) {
    if (!/\bawait\b/.test(source)) throw error;
    const opening = '(async () => {';
    try {
      return new vm.Script(`${opening}${source}\n})()`, { ...options, columnOffset: -opening.length });
    } catch {
      throw error;
    }
  }
}

// The script of a source, or what throws the error that it has. What stands below it in a trace is here.
function prepare(source, load) {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 1;
  try {
    const script = compile(source, load);
    return script.runInThisContext.bind(script);
  } catch (error) {
    return () => {
      throw error;
    };
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}

let rehearsals = 0;

// Do what a first program does: in a machine just restored all that is new is slow.
function rehearse(then) {
  const [reads, writes] = pipe();
  const input = new Socket({ fd: reads, readable: true, writable: false });
  const output = new Socket({ fd: writes, readable: false, writable: true });
  const { require, load } = makeModule('/');
  const names = {};
  offerModules(names, ['fs', 'os']);
  const source = `(console, require, { fs }) => console.log(${++rehearsals}, "one", { one: require("os") && fs })`;
  const first = prepare(source, load)(); // one that was not compiled before
  first(new Console(output, output), require, names);
  output.end(() => output.destroy());
  input.resume().on('end', () => input.destroy());
  input.on('close', () => setImmediate(then));
}

// The garbage of all that would be collected during a program that makes little of its own.
function settle() {
  v8.setFlagsFromString('--expose-gc');
  const gc = vm.runInNewContext('gc');
  v8.setFlagsFromString('--no-expose-gc');
  gc();
  trim();
  rehearse(become);
}

function become() {
  const [source, , ...words] = wait(agent);
  if (source === undefined) {
    rehearse(become);
    return;
  }
  showStreams();
  process.chdir('.'); // which is another one than it was
  process.argv = [process.execPath, ...words];
  process._eval = source;
  if ('TZ' in process.env) process.env.TZ = process.env.TZ; // it is heeded when it is set
  Module._initPaths();
  const { made, require, load } = process.cwd() === '/' ? atRoot : makeModule(process.cwd());
  Object.assign(globalThis, { __filename: NAME, module: made, exports: made.exports, __dirname: '.', require });
  process.on('beforeExit', leave);
  process.nextTick(prepare(source, load));
}

// Most of its time to end node would take its memory apart. Native add-ons may have left something to do then.
function leave() {
  const isLast = process.listenerCount('beforeExit') === 1;
  if (!isLast || Object.keys(require.cache).some((name) => name.endsWith('.node'))) return;
  process.reallyExit = exit;
  process.nextTick(quit);
}

offerModules(globalThis, builtinModules);
hideStreams();
forget();
const atRoot = makeModule('/'); // where most programs begin
rehearse(settle);
