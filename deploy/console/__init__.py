"""The console: pages for people over the operations of the API and those of `/v1/admin`.

serve.py      the process
pages.py      the pages, what they ask, and their forms
transport.py  HTTP: who may ask by a session, and what every answer says to the browser
service.py    the operations, those that change something with their trace
now.py ...    an area each: its operations
live.py       figures as they change, for all browsers at once
audit.py      the topic `audit`
session.py    who has logged in
parts.py      what the operations use; ids of people that not everyone may see
"""
