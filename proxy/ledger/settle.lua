-- Gives one fingerprint of a version its number, once, and notes which versions a name has meant.
--
-- KEYS[1] revisions  KEYS[2] changes  KEYS[3] totals  KEYS[4] series_seen
-- ARGV[1] {pair, base, taken, highest, latest, meant, last_meant: fields of `revisions`; told: whether there is a fingerprint;
--          offered: the number it had before Redis forgot it, else 0; floor: the highest number of the version that the asker has
--          heard of; had: whether it has heard of one on this host; most: the highest number that is a revision of its own;
--          counter: the field to count a change in; change: {version, upstream, model, fingerprint, at_s}}
--
-- Per version: fields `taken` + number, and the `highest`. Per version and host: `base`, its first fingerprint there (number 1),
-- and the `latest` number. Per name and host: `last_meant`, "<number> <version>", and `meant` for each version.
-- A change is a new number above 1, or a name that means another version than it ever did. Both are decided here, where
-- everybody asks, so each is one event and counted once, whoever sees it first.
--
-- Names that the catalog does not know have meanings as well, told by the name that was served, and no numbers.
--
-- Returns the number: 0 where there is no fingerprint, `most` + 1 beyond `most`; and behind it the kinds of the changes noted now.

local MEANINGS_KEPT = 5000 -- names come from clients

local asked = cjson.decode(ARGV[1])
local change = asked.change
local noted = {}
local offered, most = tonumber(asked.offered), tonumber(asked.most)

local function get(field) return redis.call('HGET', KEYS[1], field) end
local function set(field, value) redis.call('HSET', KEYS[1], field, value) end
local function whole(number) return string.format('%.0f', number) end
local function place_of(number) return number == 1 and asked.base or asked.taken .. whole(number) end

local function free_number()
  if offered >= 1 and offered <= most and not get(place_of(offered)) then return offered end
  -- A host that has had a number has had a first fingerprint, even where that place was lost with an older history.
  if not get(asked.base) and not get(asked.latest) and not asked.had then return 1 end
  return math.min(math.max(tonumber(get(asked.highest) or '1'), tonumber(asked.floor)) + 1, most + 1)
end

local function note_change(kind, before, number)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', '1000', '*', 'kind', kind, 'version', change.version, 'number', whole(number),
    'before', before, 'upstream', change.upstream, 'model', change.model, 'fingerprint', change.fingerprint, 'at_s', change.at_s)
  local time = redis.call('TIME')
  local now_ms = offered > 0 and '0' or time[1] .. string.format('%03d', math.floor(tonumber(time[2]) / 1000))
  redis.call('HSETNX', KEYS[4], asked.counter, now_ms)
  redis.call('HINCRBY', KEYS[3], asked.counter, 1)
  table.insert(noted, kind)
end

-- The number, and whether it is new.
local function number_of_pair()
  if not asked.told then return 0, false end
  local known = get(asked.pair)
  if known then return tonumber(known), false end
  local number = free_number()
  if number > most and get(place_of(number)) then return number, false end
  set(place_of(number), asked.pair)
  if number > most then return number, true end
  set(asked.pair, whole(number))
  set(asked.highest, whole(math.max(number, tonumber(get(asked.highest) or '1'))))
  return number, true
end

local before = get(asked.latest) or '1'
local last_meant = get(asked.last_meant)
local number, is_new = number_of_pair()
if is_new then set(asked.latest, whole(number)) end
if is_new and number > 1 then note_change('revision', before .. ' ' .. change.version, number) end
if not get(asked.meant) and (last_meant or redis.call('HLEN', KEYS[1]) < MEANINGS_KEPT) then
  set(asked.meant, change.at_s)
  if last_meant then note_change('version', last_meant, math.max(number, 1)) end
end
if last_meant or get(asked.meant) then set(asked.last_meant, whole(math.max(number, 1)) .. ' ' .. change.version) end
return {number, unpack(noted)}
