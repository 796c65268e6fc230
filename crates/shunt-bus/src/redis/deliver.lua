-- What the scripts have in common. Filters and topics are those of MQTT.

local function split(text)
  local levels = {}
  for level in (text .. '/'):gmatch('([^/]*)/') do
    levels[#levels + 1] = level
  end
  return levels
end

local function matches(filter, path)
  for at, wanted in ipairs(filter) do
    if wanted == '#' then
      return true
    end
    if path[at] == nil or (wanted ~= '+' and wanted ~= path[at]) then
      return false
    end
  end
  return #filter == #path
end

-- The most bytes that wait in the stream of one client, as `max_queued_bytes` of our Mosquitto.
local MOST = 64 * 1024 * 1024

-- What an entry of a stream counts for: its values.
local function size(_, topic, _, event)
  return #(topic or '') + #(event or '')
end

-- Is there no room in the stream for a further event?
local function is_full(client, bound)
  local length = redis.call('XLEN', 'shunt:queue:' .. client)
  if length == 0 then
    return false
  end
  return length >= tonumber(bound) or tonumber(redis.call('HGET', 'shunt:bytes', client) or '0') >= MOST
end

local function add(client, topic, event)
  local queue = 'shunt:queue:' .. client
  -- A stream that is empty may have been deleted with what was counted.
  local command = redis.call('XLEN', queue) == 0 and 'HSET' or 'HINCRBY'
  redis.call('XADD', queue, '*', 'topic', topic, 'event', event)
  redis.call(command, 'shunt:bytes', client, #topic + #event)
end

-- What is known of the client beside its subscriptions and stream.
local function forget(client)
  for _, key in ipairs({ 'shunt:dropped', 'shunt:bytes', 'shunt:full' }) do
    redis.call('HDEL', key, client)
  end
end

-- Says that the client is there. One that was there a moment ago needs no memory of the server for it.
local function here(client, owner, alive)
  local key = 'shunt:alive:' .. client
  if redis.call('GET', key) == owner then
    redis.call('PEXPIRE', key, alive)
  else
    redis.call('SET', key, owner, 'PX', alive)
  end
end

-- The clients with an assured subscription to the topic, here or away.
local function takers(topic)
  local path, found = split(topic), {}
  for _, client in ipairs(redis.call('SMEMBERS', 'shunt:clients')) do
    local filters = redis.call('SMEMBERS', 'shunt:filters:' .. client)
    if #filters == 0 then
      -- It ended its subscriptions, or was away for so long that they expired.
      redis.call('SREM', 'shunt:clients', client)
      forget(client)
    end
    for _, filter in ipairs(filters) do
      if matches(split(filter), path) then
        found[#found + 1] = client
        break
      end
    end
  end
  return found
end

-- Hands the event to those who listen now and into the streams of those who take it assured. Returns how many they
-- are. A full stream takes no more; what it does not take is counted.
local function deliver(topic, event, clients, bound)
  local channel = 'assured:' .. topic:gsub('/', ':')
  local heard = redis.call('PUBLISH', channel, event) + #clients
  for _, client in ipairs(clients) do
    if is_full(client, bound) then
      redis.call('HINCRBY', 'shunt:dropped', client, 1)
    else
      add(client, topic, event)
    end
  end
  return heard
end

-- The retained event that says whether a module is there.
local function tell(client, event, bound)
  local topic = 'shunt/presence/' .. client
  redis.call('HSET', 'shunt:retained', topic, event)
  deliver(topic, event, takers(topic), bound)
end
